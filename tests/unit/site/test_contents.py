"""What of a run's site is there, and what is still to come."""

import json
from datetime import datetime

import pytest

from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap
from atlas.site import contents
from atlas.site.contents import SiteContents, making_facts

RESIDUAL = AtlasMap("residual", "residual", "residual", (2, 4))
CATS = AtlasMap("residual--cats", "residual", "residual: cats", (2,), ("cats",))
NOW = datetime.fromisoformat("2026-05-04T14:03:00+00:00").timestamp()


def beside(present: SiteContents) -> SiteContents | None:
    return present.beside((RESIDUAL, CATS), ("residual",), tour=True).missing


def test_what_is_missing_is_named_grid_by_grid() -> None:
    coarse = AtlasMap("residual", "residual", "residual", (2,))
    fine = AtlasMap("residual", "residual", "residual", (4,))
    assert beside(SiteContents((coarse,), (), tour=False)) == SiteContents((fine, CATS), ("residual",), tour=True)
    assert beside(SiteContents((coarse, CATS), ("residual",), tour=True)) == SiteContents((fine,), (), tour=False)
    assert beside(SiteContents((RESIDUAL, CATS), ("residual",), tour=False)) == SiteContents((), (), tour=True)


def test_a_grid_with_quick_icons_is_there_and_its_icons_are_missing() -> None:
    quick = frozenset({("residual", 4)})
    missing = beside(SiteContents((RESIDUAL, CATS), ("residual",), tour=True, quick_grids=quick))
    assert missing is not None
    assert missing.plain() == {
        "maps": [{"name": "residual", "path": "residual", "grids": [], "quick": [4]}],
        "units": [],
        "tour": False,
    }


def test_nothing_is_missing_of_a_whole_site() -> None:
    assert beside(SiteContents((RESIDUAL, CATS), ("residual",), tour=True)) is None
    assert SiteContents((), (), tour=False).beside((), (), tour=False).missing is None


def test_facts_tell_what_comes_and_when(made_copy: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents.time, "time", lambda: NOW)
    missing = SiteContents((AtlasMap("residual", "residual", "residual", (4,)), CATS), ("residual",), tour=True)
    facts = making_facts(missing, made_copy)
    units = facts["units"][0].pop("units")
    assert units > 1
    assert facts == {
        "maps": [
            {"name": "residual", "path": "residual", "grids": [4]},
            {"name": "residual: cats", "path": "residual--cats", "grids": [2]},
        ],
        "units": [{"layer": "residual"}],
        "tour": True,
        "written": "2026-05-04T14:03:00+00:00",
    }
    progress = {"state": "running", "updated": NOW - 2, "seconds_left": 62.4}
    made_copy.progress.write_text(json.dumps(progress))
    assert making_facts(missing, made_copy)["expected_end"] == "2026-05-04T14:04:00+00:00"
    made_copy.progress.write_text(json.dumps({**progress, "state": "stopped"}))
    assert "expected_end" not in making_facts(missing, made_copy)
