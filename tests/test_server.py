"""The server: what it serves and refuses, what its door says, and how fast it is there."""

import http.client
import json
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
import uvicorn
from starlette.testclient import TestClient

from atlas import serve
from atlas.errors import ConfigError
from atlas.server import create_app, open_socket
from atlas.versions import SITE_FORMAT

LAYER = {"name": "_blocks.4", "path": "_blocks.4", "of_classes": [], "grids": [{"grid": 10}, {"grid": 20}]}


def make_run(folder: Path, title: str) -> Path:
    """A run folder with the files that matter to the server, and a secret beside its site."""
    site = folder / "site"
    tiles = site / "_blocks.4" / "atlas_files" / "9"
    tiles.mkdir(parents=True)
    (site / "assets").mkdir()
    (site / "index.html").write_text(f"<!doctype html><title>{title}</title>")
    (site / "assets" / "index-abc123.js").write_text("'use strict'")
    (site / "_blocks.4" / "atlas.dzi").write_text("<Image/>")
    (site / "_blocks.4" / "classes-000.bin").write_bytes(bytes(range(256)))
    (tiles / "0_0.webp").write_bytes(b"RIFF0000WEBP")
    atlas = {"format": SITE_FORMAT, "icon_size": 80, "networks": [{"name": "a <net>"}], "layers": [LAYER]}
    (site / "atlas.json").write_text(json.dumps(atlas | {"title": title}))
    (folder / "run.json").write_text("secret")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo", "demo")


@pytest.fixture
def client(run: Path) -> TestClient:
    return TestClient(create_app([run]))


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/atlas.json", "application/json"),
        ("/_blocks.4/atlas.dzi", "application/xml"),
        ("/_blocks.4/atlas_files/9/0_0.webp", "image/webp"),
        ("/_blocks.4/classes-000.bin", "application/octet-stream"),
        ("/assets/index-abc123.js", "text/javascript; charset=utf-8"),
    ],
)
def test_files_have_their_types(client: TestClient, path: str, media_type: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_content_is_served_as_it_is(client: TestClient, run: Path) -> None:
    assert client.get("/atlas.json").content == (run / "site" / "atlas.json").read_bytes()
    assert client.get("/_blocks.4/classes-000.bin").content == bytes(range(256))


def test_assets_are_kept_and_the_rest_is_asked_for_again(client: TestClient) -> None:
    assert "immutable" in client.get("/assets/index-abc123.js").headers["cache-control"]
    first = client.get("/_blocks.4/atlas_files/9/0_0.webp")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/_blocks.4/atlas_files/9/0_0.webp", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_a_changed_file_is_sent_again(client: TestClient, run: Path) -> None:
    tag = client.get("/atlas.json").headers["etag"]
    (run / "site" / "atlas.json").write_text('{"format": 1, "title": "another"}')
    again = client.get("/atlas.json", headers={"if-none-match": tag})
    assert again.status_code == 200
    assert again.json()["title"] == "another"


def test_ranges(client: TestClient) -> None:
    part = client.get("/_blocks.4/classes-000.bin", headers={"range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == bytes(range(10, 20))
    assert part.headers["content-range"] == "bytes 10-19/256"
    beyond = client.get("/_blocks.4/classes-000.bin", headers={"range": "bytes=300-400"})
    assert beyond.status_code == 416


def test_missing_files_and_other_methods(client: TestClient) -> None:
    assert client.get("/nothing.webp").status_code == 404
    assert client.get("/_blocks.4/").status_code == 404
    assert client.post("/atlas.json").status_code == 405


def test_a_link_out_of_the_site_is_refused(client: TestClient, run: Path) -> None:
    (run / "site" / "way-out.json").symlink_to(run / "run.json")
    assert client.get("/way-out.json").status_code == 404


def test_several_runs_have_an_index_and_an_address_each(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "first run", "one"), make_run(tmp_path / "second", "two")]
    client = TestClient(create_app(runs))
    page = client.get("/")
    links = re.findall(r'<a href="([^"]+)"', page.text)
    assert links == ["first%20run/", "second/"]
    assert [client.get(f"/{link}").text for link in links] == [
        "<!doctype html><title>one</title>",
        "<!doctype html><title>two</title>",
    ]
    assert "a &lt;net&gt;, 1 layer" in page.text
    for picture in re.findall(r'src="([^"]+)"', page.text):
        assert client.get(f"/{picture}").content == b"RIFF0000WEBP"
    older = runs[1] / "site" / "atlas.json"
    older.write_text(json.dumps({"format": SITE_FORMAT - 1, "network": {"name": "net"}, "layers": []}))
    assert "<b>second</b> <span>of another version; finish the run again</span>" in client.get("/").text
    assert client.get("/second", follow_redirects=False).headers["location"].endswith("/second/")


def test_runs_of_the_same_name_are_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a" / "demo", "one"), make_run(tmp_path / "b" / "demo", "two")]
    with pytest.raises(ConfigError, match="same name"):
        create_app(runs)


@pytest.fixture
def address(run: Path) -> Iterator[tuple[str, int]]:
    """A server in a thread, on a free port."""
    with open_socket("127.0.0.1", 0) as bound:
        server = uvicorn.Server(uvicorn.Config(create_app([run]), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield bound.getsockname()
        server.should_exit = True
        thread.join()


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


def test_the_door_says_what_is_missing(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    assert serve.main([str(unfinished)]) == 2
    said = capsys.readouterr().err
    assert "has no site yet" in said
    assert "python -m atlas.run CONFIG" in said

    assert serve.main([str(tmp_path / "nowhere")]) == 2
    assert "no run folder" in capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main([str(run), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"Port {port}" in said
    assert f"--port {port + 1}" in said
    assert len(said.splitlines()) == 1


def test_the_command_answers_soon_without_torch_and_ends_on_an_interrupt(run: Path) -> None:
    program = (
        "import sys, atexit; from atlas import serve;"
        "atexit.register(lambda: print('torch' in sys.modules, flush=True));"
        f"sys.exit(serve.main([{str(run)!r}, '--port', '0']))"
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
