"""The stage neurons in a run: asked for, killed, given again, read and checked; its recipes in the guide."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from documents import snippet, the_command
from looked_run import NEURONS, arguments
from PIL import Image
from planned import planned
from tiny_run import (
    CHECKOUT,
    PLAIN_STAGES,
    atlas_run,
    configure,
    contents,
    environment,
    kill_when,
    paint_pictures,
    tiny_values,
)

import atlas
from atlas.check.__main__ import main as check
from atlas.errors import AtlasError, ConfigError
from atlas.neurons.reading import UnitTables
from atlas.neurons.tables import STATISTICS, UNITS
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import parse_marker
from pipelines import publish
from pipelines.pipeline import run

# A network whose second layer cannot be linearised, and with a unit that never fires.
ODD = """
import torch
from torch import nn


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.ReLU())
        self.second = nn.Conv2d(6, 6, 1)
        self.third = nn.Sequential(nn.Conv2d(6, 5, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        maps = self.first(x)
        maps = (maps * maps).softmax(1) * maps.cos()
        return self.head(self.third(self.second(maps)).mean((2, 3)))


def make():
    torch.manual_seed(1)
    network = Odd()
    with torch.no_grad():
        network.third[0].bias[2] = -100
    return network
"""


def test_the_guides_recipe(looked: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = snippet("atlas/docs/guides/neurons-and-circuits.md", "In Python")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(looked.path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(recipe.replace("_blocks.10", "last"), names)
    rows = UnitTables(looked, "last").table().to_pylist()
    invariances = {row["unit"]: row["invariance"] for row in rows if row["invariance"] is not None}
    best = max(invariances, key=lambda unit: invariances[unit])
    assert invariances[names["steady"][0]] == invariances[best]
    assert len(names["steady"]) == 10
    assert {layer for layer, _, _ in names["sources"]} == {"middle"}
    effects = [abs(effect) for _, _, effect in names["sources"]]
    assert effects == sorted(effects, reverse=True)
    assert effects[0] > 0


def test_contact_sheets_of_units(looked: RunDirectory, tmp_path: Path) -> None:
    """The guide's command, for this run."""
    names = {"runs/demo": str(looked.path), "_blocks.10": "last", "FOLDER": str(tmp_path)}
    words = [names.get(word, word) for word in the_command("scripts/unit_sheets.py")]
    process = subprocess.run([sys.executable, *words], cwd=CHECKOUT, env=environment(), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    heights = {}
    for name in ("units-invariant", "units-selective", "circuits"):
        with Image.open(tmp_path / f"{name}.webp") as sheet:
            heights[name] = sheet.height
            assert np.asarray(sheet.convert("RGB")).std() > 10, f"{name} shows something"
    assert heights["units-invariant"] > 700, "ten lines"


def test_report_check_and_screen_know_the_stage(looked: RunDirectory, capsys: pytest.CaptureFixture) -> None:
    report = json.loads(looked.report.read_text())
    table = UnitTables(looked, "last").table(["largest", "invariance"])
    figures = report["layers"]["last"]["neurons"]
    assert figures["units"] == 20
    assert figures["firing"] == (table["largest"].to_numpy() > 0).sum()
    invariance = table["invariance"].drop_null().to_numpy()
    assert figures["invariant_share"] == pytest.approx((invariance >= 0.8).mean())
    assert figures["circuit_agreement"].keys() == {"middle"}
    assert check([str(looked.path)]) == 0
    assert "  neurons  finished: 36 units\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: (run.neurons("last") / "part-00001.parquet").unlink(), "missing, though its marker stands"),
        (lambda run: forge(run, "statistics", lambda table: table.set_column(
            1, STATISTICS.field("rows"), pa.array([5] * len(table), pa.int64()))), "does not count the 288 rows"),
        (lambda run: forge(run, "part-00000", lambda table: table.slice(1)), "holds other units than its own"),
    ],
)  # fmt: skip
def test_check_tells_damage_and_its_cure(
    looked: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture, damage: Any, sentence: str
) -> None:
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(looked.path, copy.path)
    damage(copy)
    assert check([str(copy.path)]) == 1
    output = capsys.readouterr().out
    assert sentence in output
    assert "delete neurons/last/" in output or "give the run's command again" in output


def forge(run: RunDirectory, name: str, change: Any) -> None:
    """Write another table and a marker that vouches for it."""
    from atlas.rundir.markers import write_marker

    path = run.neurons("last") / f"{name}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    marker = parse_marker(path.with_suffix(".json"))
    assert marker is not None
    del marker["files"]
    write_marker(path.with_suffix(".json"), files=[path], **marker)


def test_a_run_opened_knows_its_units(looked: RunDirectory, undisturbed: RunDirectory) -> None:
    opened_run = atlas.open_run(looked.path)
    table = opened_run.neurons("last")
    assert table.column_names == [*STATISTICS.names, *(name for name in UNITS.names if name != "unit")]
    assert table["unit"].to_pylist() == list(range(20))
    one = opened_run.neuron("last", 17)
    assert {name: value for name, value in one.items() if name != "circuit"} == table.slice(17, 1).to_pylist()[0]
    whole = pq.read_table(looked.neurons("last") / "circuit.parquet").to_pylist()
    assert [row["source"] for row in one["circuit"]] == [row["source"] for row in whole if row["unit"] == 17]
    with pytest.raises(ConfigError, match=r"last has no unit 20: it has 20, counted from 0"):
        opened_run.neuron("last", 20)
    with pytest.raises(ConfigError, match=r"has no layer 'lasst'; it has middle, last"):
        opened_run.neurons("lasst")
    with pytest.raises(
        ConfigError, match=r"was asked for the units of no layer, not of last.*neurons=\{layers: \[last\]"
    ):
        atlas.open_run(undisturbed.path).neurons("last")


def test_tables_of_another_version_are_a_sentence(
    looked: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Whoever reads units says what is wrong and what to do, where the columns had other names."""
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(looked.path, copy.path)
    other = {"note": "told", "picture_activations": "answers", "weight": "strength"}
    for name in ("part-00001", "circuit"):
        forge(copy, name, lambda table: table.rename_columns([other.get(name, name) for name in table.column_names]))
    sentence = (
        r"last/part-00001\.parquet was written by another version of activation-atlas: it has no picture_activations, "
        r"note\. Give the run's command again: the stage neurons is done anew\."
    )
    opened_run = atlas.open_run(copy.path)
    with pytest.raises(AtlasError, match=sentence):
        opened_run.neurons("last")
    with pytest.raises(AtlasError, match=r"last/circuit\.parquet was written by another version .* no weight\. Give"):
        opened_run.neuron("last", 17)
    assert len(opened_run.neurons("middle")) == 16
    assert check([str(copy.path)]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert (
        "WRONG neurons/last/part-00001.parquet: was written by another version: it has no picture_activations, note. "
        "Cure: give the run's command again."
    ) in output
    part = next(item for item in planned(publish, copy.config(), copy) if item.id == "neurons/last/units-00000")
    with pytest.raises(AtlasError, match=sentence):
        publish.run_item(part)


def test_unfinished_units_are_told(looked: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(looked.path, copy.path)
    (copy.neurons("last") / "part-00001.json").unlink()
    with pytest.raises(AtlasError, match=r"the stage neurons is not finished: last/part-00001 is missing"):
        atlas.open_run(copy.path).neurons("last")
    assert len(atlas.open_run(copy.path).neurons("middle")) == 16


def test_killed_and_resumed_ends_with_equal_bytes(
    workshop: Path, looked: RunDirectory, undisturbed: RunDirectory
) -> None:
    directory = RunDirectory(workshop / "runs" / "killed-neurons")
    shutil.copytree(undisturbed.path, directory.path)
    begun = directory.folder("neurons")
    kill_when(lambda: any(begun.rglob("part-*")), workshop, "killed-neurons.log", *arguments(directory))
    assert not (directory.neurons("last") / "circuit.json").exists(), "it was killed before the end"
    process = atlas_run(workshop, *arguments(directory))
    assert process.returncode == 0, process.stderr
    digests = contents(directory, ("neurons",))
    assert digests == contents(looked, ("neurons",))
    assert len(digests) == 2 * (2 * 4 + 2) - 2, "two layers, of one part and of two"


def test_asking_for_one_more_layer_leaves_the_others(
    workshop: Path, scheduler: str, looked: RunDirectory, undisturbed: RunDirectory
) -> None:
    """One layer, then both: what was made of the first stays but for its circuits; all is as when asked for at once.
    The other stages are untouched, and without units nothing of them is asked for."""
    directory = RunDirectory(workshop / "runs" / "one-more")
    shutil.copytree(undisturbed.path, directory.path)
    run(configure(workshop, scheduler, directory.path, neurons={**NEURONS, "layers": ["last"]}), until="neurons")
    times = {path: path.stat().st_mtime_ns for path in directory.neurons("last").glob("part-*")}
    assert len(times) == 4
    assert not directory.neurons("middle").exists()
    assert UnitTables(directory, "last").circuit().num_rows == 0
    key = directory.stage_key("neurons")
    run(configure(workshop, scheduler, directory.path, neurons=NEURONS), until="neurons")
    assert directory.stage_key("neurons") == key
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert contents(directory, ("neurons",)) == contents(looked, ("neurons",))
    before = contents(directory, PLAIN_STAGES)
    assert before == contents(undisturbed, PLAIN_STAGES)
    run(configure(workshop, scheduler, directory.path))
    assert contents(directory, PLAIN_STAGES) == before
    with pytest.raises(
        ConfigError, match=r"--until neurons: the configuration asks for no neurons. .*layers: \[last\]"
    ):
        run(configure(workshop, scheduler, directory.path), until="neurons")


def test_pictures_that_are_gone_are_counted(
    workshop: Path, looked: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every top patch of half the pictures is lost: figures come from the others, and the marker counts."""
    monkeypatch.syspath_prepend(workshop)
    from pipelines import neurons

    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(looked.path, copy.path)
    for path in copy.neurons("last").glob("part-*"):
        path.unlink()
    read = Listing.read

    def gone(listing: Listing, number: int) -> bytes:
        return b"" if number % 2 else read(listing, number)

    monkeypatch.setattr(Listing, "read", gone)
    item = next(item for item in planned(neurons, copy.config(), copy) if item.id == "last/part-00000")
    summary = neurons.run_item(item)
    rows = pq.read_table(copy.neurons("last") / "part-00000.parquet").to_pylist()
    tops = pq.read_table(copy.neurons("last") / "statistics.parquet")["top"].to_pylist()[:16]
    missing_rows = [[row for row in top if row["activation"] > 0 and row["image_id"] % 2] for top in tops]
    assert summary.failures == sum(map(len, missing_rows)) > 5
    assert summary.count == 16
    marker = parse_marker(copy.neurons("last") / "part-00000.json")
    assert marker is not None
    assert marker["patches_failed"] == summary.failures
    for unit, top, missing in zip(rows, tops, missing_rows):
        left = sum(row["activation"] > 0 for row in top) - len(missing)
        assert len(unit["rotated"]) == left
        if missing and not left:
            assert unit["note"] == "None of its top pictures can be read any more."
        assert len(unit["pictures"]) == 3


def test_dead_units_and_paths_that_are_not_linear_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    paint_pictures(tmp_path / "pictures", 12)
    values = {
        **tiny_values(tmp_path), "network": {"name": "odd:make", "size": 48}, "layers": ["first", "third"],
        "neurons": {"layers": ["third", "first"], "pictures": 2, "patches": 2}, "out": "run",
    }  # fmt: skip
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(values))
    process = atlas_run(tmp_path, "odd.yaml")
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr + process.stdout
    directory = RunDirectory(tmp_path / "run")
    assert process.stdout.count("third: no weights from first. ") == 1
    tables = UnitTables(directory, "third")
    assert tables.earlier() == ["first"]
    assert tables.notes().keys() == {"first"}
    assert pq.read_table(directory.neurons("third") / "cells.parquet").num_rows == 0
    dead = tables.table().to_pylist()[2]
    assert dead["largest"] == 0
    assert dead["note"] == "It never fires: it is not above 0 in any row of the store."
    assert dead["rotated"] == dead["supports"] == []
    assert len(dead["pictures"]) == 2
    assert atlas.open_run(directory.path).neuron("third", 2)["selectivity"] is None
    assert sys.modules.get("odd") is None
