"""The application: what it answers beside a site's files, and several runs at once."""

from pathlib import Path

import pytest
from served_run import make_run
from starlette.testclient import TestClient

from atlas.errors import ConfigError
from atlas.serve.app import create_app


def test_missing_files_and_other_methods(site_client: TestClient) -> None:
    assert site_client.get("/nothing.webp").status_code == 404
    assert site_client.get("/_blocks.4/").status_code == 404
    assert site_client.post("/atlas.json").status_code == 405


def test_runs_of_the_same_name_are_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a" / "demo", "one"), make_run(tmp_path / "b" / "demo", "two")]
    with pytest.raises(ConfigError, match="same name"):
        create_app(runs)
