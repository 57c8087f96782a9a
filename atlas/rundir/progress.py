"""How far a run is, as progress.json says it: written every few seconds by the process at work, read by whoever looks
from elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from atlas.rundir.directory import RunDirectory

# Seconds without a sign of life after which a run counts as killed: it gives one every few seconds.
SILENCE = 60.0

RunState = Literal["running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Progress:
    """What the last sign of life said: the ``state``, when it was given and how many seconds the rest took then; times
    in seconds since 1970. ``facts``: all of progress.json."""

    state: RunState
    updated: float
    seconds_left: float
    facts: dict[str, Any]

    @property
    def expected_end(self) -> float | None:
        """When the run is expected to be done; None where none is at work."""
        return self.updated + self.seconds_left if self.state == "running" else None

    def state_at(self, now: float) -> RunState:
        """The state at a later time: a run that gives no sign any more was killed, and so stopped."""
        return "stopped" if self.state == "running" and now - self.updated > SILENCE else self.state


def read_progress(run: RunDirectory) -> Progress | None:
    """What progress.json says; None where there is none, or it is cut off or another version's."""
    try:
        facts = json.loads(run.progress.read_text(encoding="utf-8"))
        return Progress(facts["state"], float(facts["updated"]), float(facts["seconds_left"]), facts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
