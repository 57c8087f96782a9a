"""The server and its command: requests without end, responses that nobody reads, mistakes, and the interrupt."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from served_run import answer_to, request, served

from atlas.serve import __main__ as serve
from atlas.serve.server import SiteServer


@pytest.mark.parametrize(
    ("start", "endless", "status"),
    [
        (b"GET /", b"a" * 65536, 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n" * 10000, 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"y" * 65536, 400),
        (request("/", "Transfer-Encoding: chunked", method="POST"), b"8000\r\n%b\r\n" % bytes(32768), 413),
        (request("/", "Content-Length: 99999999999"), bytes(65536), 413),
    ],
    ids=["address", "headers", "header", "chunks", "body"],
)
def test_endless_requests_are_cut_off_and_fill_no_memory(
    run_folder: Path, start: bytes, endless: bytes, status: int
) -> None:
    arguments = [str(run_folder), "--port", "0"]
    program = f"import sys; from atlas.serve import __main__ as serve; sys.exit(serve.main({arguments!r}))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split(":")[2].partition("/")[0])
            assert answer_to(("127.0.0.1", port), request())[0] == 200
            before, sent_bytes = peak_bytes(process.pid), 0
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(start)
                    while sent_bytes < 2**28:
                        connection.sendall(endless)
                        sent_bytes += len(endless)
                assert connection.recv(12) == f"HTTP/1.1 {status}".encode()
            assert answer_to(("127.0.0.1", port), request())[0] == 200, "others are answered"
            assert peak_bytes(process.pid) - before < 4 * 2**20
        finally:
            process.kill()
    assert sent_bytes < 2**25, "it was hung up on"


def peak_bytes(process: int) -> int:
    """The most memory that a process has had so far."""
    (line,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_an_answer_that_nobody_reads_does_not_hold_up_the_end(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("atlas.serve.server.GRACE", 0.2)
    (run_folder / "site" / "large.bin").write_bytes(bytes(2**26))
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(served(run_folder))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request("/large.bin"))
            assert connection.recv(12) == b"HTTP/1.1 200"
            start = time.monotonic()
            stack.close()
            assert time.monotonic() - start < 3
    errors = capsys.readouterr().err
    assert "timeout graceful shutdown exceeded" in errors
    assert "Traceback" not in errors


def test_the_door_says_what_is_missing(
    tmp_path: Path, run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    assert serve.main([str(tmp_path)]) == 2
    assert f"{tmp_path} is no run: it has no run.json and no site; give a run in it, such as" in capsys.readouterr().err
    assert serve.main([str(unfinished)]) == 2
    assert "unfinished is no run" in capsys.readouterr().err
    (unfinished / "run.json").write_text("{}")
    assert serve.main([str(unfinished)]) == 2
    errors = capsys.readouterr().err
    assert "has no site yet" in errors
    assert "atlas run CONFIG" in errors
    (unfinished / "progress.json").write_text(
        json.dumps({"state": "running", "updated": time.time(), "seconds_left": 60})
    )
    assert serve.main([str(unfinished)]) == 2
    errors = capsys.readouterr().err
    assert "is at work and has no site yet" in errors
    assert f"atlas status {unfinished}" in errors
    (unfinished / "progress.json").unlink()

    assert serve.main([str(unfinished), str(tmp_path / "nothing")]) == 2
    errors = capsys.readouterr().err
    assert "unfinished has no site yet" in errors
    assert "There is no run folder" in errors

    assert serve.main([str(tmp_path / "nowhere")]) == 2
    assert "no run folder" in capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert serve.main([str(run_folder), "--port", str(port)]) == 2
    errors = capsys.readouterr().err
    assert f"Port {port}" in errors
    assert serve.main([str(run_folder), "--host", "192.0.2.1"]) == 2
    assert "--host 192.0.2.1: this machine has no such address" in capsys.readouterr().err
    assert serve.main([str(run_folder), "--port", "99999"]) == 2
    assert "--port 99999: expected a number from 0 to 65535" in capsys.readouterr().err
    assert f"--port {port + 1}" in errors
    assert len(errors.splitlines()) == 1


def test_the_command_answers_soon_without_torch_and_ends_on_an_interrupt(run_folder: Path) -> None:
    program = (
        "import sys, atexit; from atlas.serve import __main__ as serve;"
        "atexit.register(lambda: print('torch' in sys.modules, flush=True));"
        f"sys.exit(serve.main([{str(run_folder)!r}, '--port', '0']))"
    )
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.fullmatch(r"The atlas is at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends\)\n", line)
            assert match, line
            with urllib.request.urlopen(match[1], timeout=10) as answer:
                assert b"<title>demo</title>" in answer.read()
            seconds = time.monotonic() - start
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert rest == "False\n", "torch was loaded"
    assert process.returncode == 0
    assert seconds < 5, f"{seconds:.1f} s until the first answer"  # 0.6 s on a quiet machine


def test_a_site_is_served_as_soon_as_it_is_there(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The socket is there before: who comes early waits."""
    server = SiteServer("127.0.0.1", 0)
    server.wait()  # nothing was begun: nothing to wait for
    server.begin(run_folder)
    match = re.fullmatch(r"The atlas is at (http://127\.0\.0\.1:\d+/)\n", capsys.readouterr().out)
    assert match
    with urllib.request.urlopen(match[1], timeout=10) as answer:
        assert b"<title>demo</title>" in answer.read()
