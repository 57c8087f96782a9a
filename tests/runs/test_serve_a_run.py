"""A run that serves its site while it is at work, and how much it prints."""

import json
import re
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from tiny_run import atlas_run, command, end_all, environment

from atlas import run as run_command


def layers_at(address: str) -> list[str]:
    """The maps that the site at ``address`` has so far."""
    with urllib.request.urlopen(f"{address}atlas.json", timeout=30) as answer:
        return [layer["path"] for layer in json.load(answer)["layers"]]


def test_a_run_serves_its_site_from_the_first_level_on_and_after_its_end(workshop: Path) -> None:
    process = subprocess.Popen(
        # With quick icons the first page is long before the rest, also on a machine that has other work.
        command(
            *("tiny.yaml", "--set", "out=runs/served", "--set", "render.quick_steps=1"),
            *("--serve", "--port", "0", "--verbose"),
        ),
        cwd=workshop,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if match := re.fullmatch(r"The atlas is at (http://127\.0\.0\.1:\d+/)", lines[-1]):
                address = match[1]
                assert layers_at(address)[0] == "last", "the layer that the page opens on"
            if lines[-1].endswith("(Ctrl-C ends)"):
                break
        assert lines[-2:] == ["Done.", f"The atlas is at {address} (Ctrl-C ends)"]
        first = lines.index(f"The atlas is at {address}")
        ends = [
            number for number, line in enumerate(lines) if re.search(r" (render|publish): \d+ of \d+ items now", line)
        ]
        assert len(ends) == 2
        assert first < min(ends), "before all was drawn"
        assert sorted(layers_at(address)) == ["last", "middle"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        end_all(process)
    assert (process.returncode, errors) == (0, "")
    # --verbose has a line for each item.
    items = [line.split(" ", 1)[1] for line in lines if re.match(r"\d\d:\d\d:\d\d \S+/\S+: ", line)]
    assert sum(line.startswith("collect/part-") for line in items) == 5
    assert all(re.search(r": [\d,]+ \w+(, [\d,]+ failed)? in [\d.]+ s$", line) for line in items)
    assert any(re.match(r"render/last/grid-\S+: \d+ icons in ", line) for line in items)


def test_a_quiet_run_prints_nothing_but_errors(workshop: Path) -> None:
    process = atlas_run(workshop, "tiny.yaml", "--set", "out=runs/quiet", "--until", "collect", "--quiet")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert (workshop / "runs" / "quiet" / "store").is_dir()
    process = atlas_run(workshop, "tiny.yaml", "--set", "layers=[nowhere]", "--quiet")
    assert process.returncode == 2
    assert process.stdout == ""
    assert "nowhere" in process.stderr


def test_what_cannot_be_served_is_refused_before_the_work(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = str(workshop / "tiny.yaml")
    assert run_command.main([configuration, "--serve", "--until", "cells"]) == 2
    assert "--serve needs a site, and --until cells makes none; leave out one of them." in capsys.readouterr().err
    out = workshop / "runs" / "unserved"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert run_command.main([configuration, "--set", f"out={out}", "--serve", "--port", str(port)]) == 2
    assert f"Port {port} of 127.0.0.1 cannot be opened" in capsys.readouterr().err
    assert not out.exists()
