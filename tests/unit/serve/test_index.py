"""The page that lists several runs."""

import json
import re
from pathlib import Path

from served_run import make_run
from starlette.testclient import TestClient

from atlas.rundir.versions import SITE_FORMAT
from atlas.serve.app import create_app


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


def test_a_run_at_work_is_listed_with_what_it_has(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "first", "one"), make_run(tmp_path / "second", "two")]
    path = runs[0] / "site" / "atlas.json"
    atlas = json.loads(path.read_text())
    of_classes = {**atlas["layers"][0], "classes_shown": ["tench"]}
    path.write_text(json.dumps({**atlas, "layers": [of_classes], "opening_map": "_blocks.10", "making": {}}))
    page = TestClient(create_app(runs)).get("/").text
    assert page.count("a &lt;net&gt;, 1 layer, not all made yet") == 1
    assert page.count("a &lt;net&gt;, 1 layer") == 2
    assert page.count("<img") == 2
