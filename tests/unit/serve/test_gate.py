"""The server's gate: what anyone may ask, and what is refused with a sentence."""

import http.client
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_run import answer_to, make_run, request, served

from atlas.serve.gate import ADDRESS_BYTES, HEADER_BYTES, HEADERS, RANGES


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with served(make_run(tmp_path_factory.mktemp("run") / "demo", "demo")) as port:
        yield "127.0.0.1", port


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
    ("message", "status", "sentence"),
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
    address: tuple[str, int], message: bytes, status: int, sentence: str
) -> None:
    answered, headers, text = answer_to(address, message)
    assert (answered, headers["content-type"]) == (status, "text/plain; charset=utf-8")
    assert headers["connection"] == "close", "what may still follow is not read"
    assert sentence in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (request("/" + "a" * (ADDRESS_BYTES - 1)), 404),
        (request("/atlas.json", *["X: y"] * (HEADERS - 1)), 200),
        (request("/atlas.json", f"Cookie: {'c' * (HEADER_BYTES - 100)}"), 200),
        (request("/atlas.json", "Content-Length: 0", method="POST"), 405),
        (request("/_blocks.4/classes-000.bin", "Range: bytes=" + ",".join(f"{9 * n}-{9 * n}" for n in range(16))), 206),
    ],
    ids=["path", "headers", "cookie", "post", "ranges"],
)
def test_what_just_fits_is_answered(address: tuple[str, int], message: bytes, status: int) -> None:
    assert answer_to(address, message)[0] == status


def test_several_ranges_at_once(address: tuple[str, int]) -> None:
    status, headers, text = answer_to(address, request("/_blocks.4/classes-000.bin", "Range: bytes=65-67,97-98"))
    assert (status, headers["content-type"].split(";")[0]) == (206, "multipart/byteranges")
    assert re.findall(r"Content-Range: (.*)\r\n\r\n(.*)\r\n", text) == [
        ("bytes 65-67/256", "ABC"),
        ("bytes 97-98/256", "ab"),
    ]


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
        "atlas serve --host 0.0.0.0 answers to every name, atlas.show(run, proxy=...) too.\n"
    )


def test_any_name_is_answered_where_others_are_meant(run_folder: Path) -> None:
    with served(run_folder, "0.0.0.0") as port:
        for name in ("evil.example", "atlas.example:8000", "localhost"):
            assert answer_to(("127.0.0.1", port), request(host=name))[0] == 200
