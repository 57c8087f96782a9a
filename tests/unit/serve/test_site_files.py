"""The files of a site: their types, ranges and caching, and no way out."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient


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
def test_files_have_their_types(site_client: TestClient, path: str, media_type: str) -> None:
    answer = site_client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_content_is_served_as_it_is(site_client: TestClient, run_folder: Path) -> None:
    assert site_client.get("/atlas.json").content == (run_folder / "site" / "atlas.json").read_bytes()
    assert site_client.get("/_blocks.4/classes-000.bin").content == bytes(range(256))


def test_assets_are_cached_and_the_rest_is_asked_for_again(site_client: TestClient) -> None:
    assert "immutable" in site_client.get("/assets/index-abc123.js").headers["cache-control"]
    first = site_client.get("/_blocks.4/atlas_files/9/0_0.webp")
    assert first.headers["cache-control"] == "no-cache"
    again = site_client.get("/_blocks.4/atlas_files/9/0_0.webp", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_a_changed_file_is_sent_again(site_client: TestClient, run_folder: Path) -> None:
    tag = site_client.get("/atlas.json").headers["etag"]
    (run_folder / "site" / "atlas.json").write_text('{"format": 1, "title": "another"}')
    again = site_client.get("/atlas.json", headers={"if-none-match": tag})
    assert again.status_code == 200
    assert again.json()["title"] == "another"


def test_ranges(site_client: TestClient) -> None:
    part = site_client.get("/_blocks.4/classes-000.bin", headers={"range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == bytes(range(10, 20))
    assert part.headers["content-range"] == "bytes 10-19/256"
    beyond = site_client.get("/_blocks.4/classes-000.bin", headers={"range": "bytes=300-400"})
    assert beyond.status_code == 416


def test_a_link_out_of_the_site_is_refused(site_client: TestClient, run_folder: Path) -> None:
    (run_folder / "site" / "way-out.json").symlink_to(run_folder / "run.json")
    assert site_client.get("/way-out.json").status_code == 404
