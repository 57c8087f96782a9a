"""The server's door: what strangers may ask, what they are refused, and what the person who starts it is told."""

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_run import make_run

from atlas.serve import __main__ as serve
from atlas.serve.app import create_app, create_server
from atlas.serve.gate import ADDRESS_BYTES, HEADER_BYTES, HEADERS, RANGES
from atlas.serve.sockets import LOOPBACK, open_socket, own_names


@contextlib.contextmanager
def served(run_folder: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """A server in a thread, as the door starts it; its port."""
    with open_socket(host, 0) as bound:
        ip, port = bound.getsockname()
        server = create_server(create_app([run_folder]), hosts=own_names(ip))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with served(make_run(tmp_path_factory.mktemp("run") / "demo", "demo")) as port:
        yield "127.0.0.1", port


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


@pytest.mark.parametrize(
    "path",
    [
        "/../run.json",
        "/assets/../../run.json",
        "/%2e%2e/run.json",
        "/..%2frun.json",
        "/%2e%2e%2frun.json",
        "/..\\run.json",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/run.json%00",
        "/" + "a" * 5000,
    ],
)
def test_ways_out_of_the_site_are_refused(address: tuple[str, int], path: str) -> None:
    """With a bare connection, since clients tidy such paths up before they send them."""
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.putrequest("GET", path, skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status in (400, 404)
    assert b"secret" not in answer.read()
    connection.close()


@pytest.mark.parametrize(
    ("sent", "status", "told"),
    [
        (request("/" + "a" * ADDRESS_BYTES), 414, "The address has 8,193 bytes; this server takes 8,192 at most."),
        (request("/atlas.json?" + "a" * ADDRESS_BYTES), 414, "The address has 8,203 bytes"),
        (request("/atlas.json", *["X: y"] * HEADERS), 431, "The request has 101 headers of 213 bytes"),
        (request("/atlas.json", f"Cookie: {'c' * HEADER_BYTES}"), 431, "The request has 2 headers of 32,787 bytes"),
        (request("/atlas.json", "Content-Length: 99999999999"), 413, "has a body; this server takes none."),
        (request("/atlas.json", "Transfer-Encoding: chunked"), 413, "has a body; this server takes none."),
        (request("/atlas.json", "Content-Length: 5", method="POST") + b"12345", 413, "has a body"),
        (
            request("/_blocks.4/classes-000.bin", "Range: bytes=" + "0-," * RANGES + "0-"),
            416,
            "The request asks for 17 ranges; this server gives 16 at once.",
        ),
    ],
    ids=["path", "query", "headers", "cookie", "length", "chunks", "post", "ranges"],
)
def test_huge_requests_are_refused_with_a_sentence(
    address: tuple[str, int], sent: bytes, status: int, told: str
) -> None:
    found, headers, text = answer_to(address, sent)
    assert (found, headers["content-type"]) == (status, "text/plain; charset=utf-8")
    assert headers["connection"] == "close", "what may still follow is not read"
    assert told in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/" + "a" * (ADDRESS_BYTES - 1)), 404),
        (request("/atlas.json", *["X: y"] * (HEADERS - 1)), 200),
        (request("/atlas.json", f"Cookie: {'c' * (HEADER_BYTES - 100)}"), 200),
        (request("/atlas.json", "Content-Length: 0", method="POST"), 405),
        (request("/_blocks.4/classes-000.bin", "Range: bytes=" + ",".join(f"{9 * n}-{9 * n}" for n in range(16))), 206),
    ],
    ids=["path", "headers", "cookie", "post", "ranges"],
)
def test_what_just_fits_is_answered(address: tuple[str, int], sent: bytes, status: int) -> None:
    assert answer_to(address, sent)[0] == status


def test_several_ranges_at_once(address: tuple[str, int]) -> None:
    status, headers, text = answer_to(address, request("/_blocks.4/classes-000.bin", "Range: bytes=65-67,97-98"))
    assert (status, headers["content-type"].split(";")[0]) == (206, "multipart/byteranges")
    assert re.findall(r"Content-Range: (.*)\r\n\r\n(.*)\r\n", text) == [
        ("bytes 65-67/256", "ABC"),
        ("bytes 97-98/256", "ab"),
    ]


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
    program = f"import sys; from atlas import serve; sys.exit(serve.main({arguments!r}))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split(":")[2].partition("/")[0])
            assert answer_to(("127.0.0.1", port), request())[0] == 200
            before, sent = peak_bytes(process.pid), 0
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(start)
                    while sent < 2**28:
                        connection.sendall(endless)
                        sent += len(endless)
                assert connection.recv(12) == f"HTTP/1.1 {status}".encode()
            assert answer_to(("127.0.0.1", port), request())[0] == 200, "others are answered"
            assert peak_bytes(process.pid) - before < 4 * 2**20
        finally:
            process.kill()
    assert sent < 2**25, "it was hung up on"


def peak_bytes(process: int) -> int:
    """The most memory that a process has had so far."""
    (line,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_an_answer_that_nobody_reads_does_not_hold_up_the_end(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("atlas.serve.app.GRACE", 0.2)
    (run_folder / "site" / "large.bin").write_bytes(bytes(2**26))
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(served(run_folder))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request("/large.bin"))
            assert connection.recv(12) == b"HTTP/1.1 200"
            start = time.monotonic()
            stack.close()
            assert time.monotonic() - start < 3
    told = capsys.readouterr().err
    assert "timeout graceful shutdown exceeded" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000"])
def test_the_machine_itself_is_answered(address: tuple[str, int], host: str) -> None:
    assert answer_to(address, request(host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "192.168.0.7", "::1", ""],
)
def test_another_name_is_refused_where_only_this_machine_is_meant(address: tuple[str, int], host: str) -> None:
    """A page of the web may have its own name lead here: what it asks for then has that name in Host."""
    status, _, text = answer_to(address, request(host=host))
    assert status == 403
    assert text == (
        f"This server is for its own machine, as 127.0.0.1 or [::1] or localhost, and was asked for as {host!r}. "
        "python -m atlas.serve --host 0.0.0.0 answers to every name, atlas.show(run, proxy=...) too.\n"
    )


def test_any_name_is_answered_where_others_are_meant(run_folder: Path) -> None:
    with served(run_folder, "0.0.0.0") as port:
        for name in ("evil.example", "atlas.example:8000", "localhost"):
            assert answer_to(("127.0.0.1", port), request(host=name))[0] == 200


@pytest.mark.parametrize(
    ("ip", "names"),
    [
        ("127.0.0.1", LOOPBACK),
        ("127.0.0.2", LOOPBACK | {"127.0.0.2"}),
        ("::1", LOOPBACK),
        ("0.0.0.0", None),
        ("::", None),
        ("192.168.0.7", None),
    ],
)
def test_names_follow_from_the_address(ip: str, names: frozenset[str] | None) -> None:
    assert own_names(ip) == names


def test_the_door_says_what_is_missing(
    tmp_path: Path, run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    assert serve.main([str(unfinished)]) == 2
    said = capsys.readouterr().err
    assert "has no site yet" in said
    assert "python -m atlas.run CONFIG" in said

    assert serve.main([str(unfinished), str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr().err
    assert "unfinished has no site yet" in said
    assert "There is no run folder" in said

    assert serve.main([str(tmp_path / "nowhere")]) == 2
    assert "no run folder" in capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main([str(run_folder), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"Port {port}" in said
    assert f"--port {port + 1}" in said
    assert len(said.splitlines()) == 1


def test_the_command_answers_soon_without_torch_and_ends_on_an_interrupt(run_folder: Path) -> None:
    program = (
        "import sys, atexit; from atlas import serve;"
        "atexit.register(lambda: print('torch' in sys.modules, flush=True));"
        f"sys.exit(serve.main([{str(run_folder)!r}, '--port', '0']))"
    )
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"The atlas is at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends\)\n", line)
            assert found, line
            with urllib.request.urlopen(found[1], timeout=10) as answer:
                assert b"<title>demo</title>" in answer.read()
            seconds = time.monotonic() - start
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert rest == "False\n", "torch was loaded"
    assert process.returncode == 0
    assert seconds < 5, f"{seconds:.1f} s until the first answer"  # 0.6 s on a quiet machine
