"""A run folder with what matters to the server."""

import json
from pathlib import Path

import pytest

from atlas.rundir.versions import SITE_FORMAT

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
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo", "demo")
