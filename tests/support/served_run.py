"""A run folder with what matters to the server, served by a thread, and requests to it byte by byte."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from atlas.rundir.versions import SITE_FORMAT
from atlas.serve.app import create_app
from atlas.serve.server import create_server
from atlas.serve.sockets import open_socket, own_names

LAYER = {"name": "_blocks.4", "path": "_blocks.4", "classes_shown": [], "grids": [{"grid": 10}, {"grid": 20}]}


def make_run(folder: Path, title: str) -> Path:
    """A run folder with the files that matter to the server, and a secret beside its site."""
    site = folder / "site"
    tiles = site / "_blocks.4" / "atlas_files" / "9"
    tiles.mkdir(parents=True)
    icons = site / "_blocks.4" / "grid-010" / "icons_files" / "9"
    icons.mkdir(parents=True)
    (site / "assets").mkdir()
    (site / "index.html").write_text(f"<!doctype html><title>{title}</title>")
    (site / "assets" / "index-abc123.js").write_text("'use strict'")
    (site / "_blocks.4" / "atlas.dzi").write_text("<Image/>")
    (site / "_blocks.4" / "classes-000.bin").write_bytes(bytes(range(256)))
    for folder_of_tiles in (tiles, icons):
        (folder_of_tiles / "0_0.webp").write_bytes(b"RIFF0000WEBP")
    atlas = {"format": SITE_FORMAT, "icon_size": 80, "networks": [{"name": "a <net>"}], "layers": [LAYER]}
    (site / "atlas.json").write_text(json.dumps(atlas | {"title": title}))
    (folder / "run.json").write_text("secret")
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo", "demo")


@pytest.fixture
def site_client(run_folder: Path) -> TestClient:
    """Asks the application of a run folder, without a socket."""
    return TestClient(create_app([run_folder]))


@contextlib.contextmanager
def served(run_folder: Path, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A server in a thread, as the command starts it; its port, a free one where none is given."""
    with open_socket(host, port) as bound:
        ip, port = bound.getsockname()
        server = create_server(create_app([run_folder]), hosts=own_names(ip))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


def answer_to(address: tuple[str, int], request: bytes) -> tuple[int, dict[str, str], str]:
    """Status, headers and text that a server answers to the very bytes, with a bare connection."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read().decode("latin-1")


def request(path: str = "/atlas.json", *headers: str, method: str = "GET", host: str = "localhost") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode("latin-1")
