"""Whether a run is whole: markers against run.json, files against their markers, and what is worth knowing."""

import fcntl
import json
from pathlib import Path

import pytest
from made_run import ROWS

from atlas.check.verify import summary_lines, verify
from atlas.errors import ConfigError
from atlas.rundir.directory import RunDirectory


def lines_of(run: RunDirectory, *, quick: bool = False) -> list[str]:
    return list(summary_lines(verify(run, quick=quick), quick=quick))


def test_a_run_until_render_is_whole(made_run: RunDirectory) -> None:
    findings = verify(made_run)
    assert findings.problems == []
    assert findings.notes == []
    assert findings.stages["collect"] == f"finished: 3 shards, {ROWS + 4} of {ROWS + 4} views, 4 failed"
    assert findings.stages["layout"] == "finished: 2 of 2 layouts"
    assert findings.stages["cells"] == "finished: 2 of 2 maps"
    assert findings.stages["render"].startswith("finished: ")
    assert findings.stages["publish"] == "not begun"
    assert "neurons" not in findings.stages


def test_what_is_wrong_is_a_line_with_its_cure(made_copy: RunDirectory) -> None:
    shard = made_copy.store("branches") / "part-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    *_, wrong, total = lines_of(made_copy)
    assert wrong == (
        "  WRONG    store/branches/part-00001.parquet: changed since it was written: its sha256 is not that of its "
        "marker. Cure: delete store/branches/part-00001.parquet and give the run's command again."
    )
    assert total.startswith(f"1 thing is wrong with {made_copy.path} (")
    assert total.endswith("compared by sha256).")
    assert lines_of(made_copy, quick=True)[-1].startswith(f"Nothing is wrong with {made_copy.path} ("), "the size stays"
    shard.write_bytes(data[:-1])
    assert f"{len(data) - 1:,} bytes long, its marker says {len(data):,}" in lines_of(made_copy, quick=True)[-2]
    shard.unlink()
    assert "missing, though its marker stands" in lines_of(made_copy)[-2]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "a marker that is cut off or overwritten"),
        (
            json.dumps({"key": "f" * 64, "files": {}}),
            "a marker of another configuration (key ffffffff, run.json has 3333",
        ),
    ],
)
def test_markers_are_held_against_the_run(made_copy: RunDirectory, content: str, sentence: str) -> None:
    marker = made_copy.folder("cells") / "branches.json"
    marker.write_text(content)
    findings = verify(made_copy)
    assert findings.problems[0].where == "cells/branches.json"
    assert sentence in findings.problems[0].what
    assert findings.problems[0].delete == ("cells/branches.json",)


def test_what_an_earlier_configuration_made_is_not_wrong(made_copy: RunDirectory) -> None:
    """Its layout has another key, so cells and icons are of another layout; the run moves them aside."""
    made_copy.update_manifest(stages={"layout": {"key": "e" * 64, "above": "1" * 64}})
    findings = verify(made_copy)
    assert {"cells", "render"} <= findings.stale
    assert findings.stages["cells"] == "of an earlier configuration; the run moves it aside when it comes by"


def test_notes_tell_what_is_no_fault(made_copy: RunDirectory) -> None:
    (made_copy.path / "store" / ".part.1234.tmp").write_bytes(bytes(2_000_000))
    (made_copy.path / "cells.0123abcd").mkdir()
    (made_copy.path / "cells.0123abcd" / "old").write_bytes(bytes(1_000_000))
    (made_copy.path / "other.0123abcd").mkdir()
    with (made_copy.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        findings = verify(made_copy)
    assert findings.problems == []
    assert findings.notes == [
        "a process is at work in this run: what it is writing may look wrong; check again later",
        "1 temporary files of killed processes, 2.0 MB, such as store/.part.1234.tmp; the run removes them when it "
        "comes by",
        "cells.0123abcd/ was moved aside when the configuration changed, 1.0 MB; it comes back with its "
        "configuration, and may be deleted",
    ]


def test_without_a_run_there_is_a_sentence(tmp_path: Path, made_copy: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"There is no folder .*nowhere\. Expected the folder of a run"):
        verify(RunDirectory(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty is no run: it has no run\.json"):
        verify(RunDirectory(tmp_path / "empty"))
    made_copy.manifest.write_text('{"format":')
    (problem,) = verify(made_copy).problems
    assert (problem.where, problem.what) == ("run.json", "cut off or overwritten: it is no JSON of a run")
    made_copy.manifest.unlink()
    (problem,) = verify(made_copy).problems
    assert problem.what == "missing, so the stages cannot be held against their configuration"
