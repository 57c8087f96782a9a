"""Who is at work at an address: ``owner.json`` there, renewed again and again while its process lives."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress

import psutil

from atlas.errors import AtlasError
from atlas.rundir.remote_store import RemoteStore

_OWNER = "owner.json"
# How often the owner renews it, and how old it is when the owner is taken for gone.
_HEARTBEAT_SECONDS, _EXPIRY_SECONDS = 20, 120


class OwnerLock:
    """Keeps all processes but one from a RemoteStore.

    A storage such as S3 has no locks: two processes that begin within the same second are told apart by reading the
    file again, which is enough for people and no more.
    """

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._identity = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "process": os.getpid()}
        self._released, self._heartbeat = threading.Event(), threading.Thread(target=self._keep_renewing, daemon=True)

    def acquire(self) -> None:
        """Take the lock, and renew it in the background. Raises AtlasError when another process is at work there."""
        try:
            other = json.loads(self._store.read(_OWNER))
        except (FileNotFoundError, ValueError):
            other = {}
        dead = other.get("host") == self._identity["host"] and not psutil.pid_exists(other.get("process", -1))
        age = time.time() - other.get("time", 0)
        if other and not dead and age < _EXPIRY_SECONDS:
            raise AtlasError(
                f"Another process ({other.get('process')} on {other.get('host')}) was at work at {self._store.url} "
                f"{max(0, age):.0f} seconds ago. Wait for it; if it was killed, try again in {_EXPIRY_SECONDS} seconds."
            )
        self._renew()
        if json.loads(self._store.read(_OWNER)).get("id") != self._identity["id"]:
            raise AtlasError(f"Another process has just begun to work at {self._store.url}. Wait for it.")
        self._heartbeat.start()

    def release(self) -> None:
        """Give the lock up; nothing where it was never acquired."""
        if self._heartbeat.ident is None:
            return
        self._released.set()
        self._heartbeat.join()
        with suppress(AtlasError, OSError):
            self._store.delete(_OWNER)

    def _keep_renewing(self) -> None:
        while not self._released.wait(_HEARTBEAT_SECONDS):
            with suppress(AtlasError):
                self._renew()

    def _renew(self) -> None:
        self._store.write(_OWNER, json.dumps({**self._identity, "time": time.time()}).encode())
