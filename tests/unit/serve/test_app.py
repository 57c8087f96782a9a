"""The server: files, their types and ranges, and several runs at once."""

import json
import re
from pathlib import Path

import pytest
from served_run import make_run
from starlette.testclient import TestClient

from atlas.errors import ConfigError
from atlas.rundir.versions import SITE_FORMAT
from atlas.serve.app import create_app


@pytest.fixture
def client(run_folder: Path) -> TestClient:
    return TestClient(create_app([run_folder]))


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


def test_content_is_served_as_it_is(client: TestClient, run_folder: Path) -> None:
    assert client.get("/atlas.json").content == (run_folder / "site" / "atlas.json").read_bytes()
    assert client.get("/_blocks.4/classes-000.bin").content == bytes(range(256))


def test_assets_are_cached_and_the_rest_is_asked_for_again(client: TestClient) -> None:
    assert "immutable" in client.get("/assets/index-abc123.js").headers["cache-control"]
    first = client.get("/_blocks.4/atlas_files/9/0_0.webp")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/_blocks.4/atlas_files/9/0_0.webp", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_a_changed_file_is_sent_again(client: TestClient, run_folder: Path) -> None:
    tag = client.get("/atlas.json").headers["etag"]
    (run_folder / "site" / "atlas.json").write_text('{"format": 1, "title": "another"}')
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


def test_a_link_out_of_the_site_is_refused(client: TestClient, run_folder: Path) -> None:
    (run_folder / "site" / "way-out.json").symlink_to(run_folder / "run.json")
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
