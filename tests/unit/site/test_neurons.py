"""What the site shows of units, from tables whose figures are known."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_neurons import NEVER, PICTURES, class_effects, shade, turning, write_neurons
from PIL import Image
from unit_run import PATCHES, read_json, unit_folder

from atlas.arrays import Pixels
from atlas.cells.crops import Cropper
from atlas.neurons import tables
from atlas.neurons.reading import UnitTables
from atlas.neurons.tables import DEGREES
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.site import neurons
from atlas.site.circuits import unit_circuit_facts
from atlas.store.shards import key_of, to_numpy


@pytest.fixture
def run(unit_run: RunDirectory) -> RunDirectory:
    return unit_run


UNITS = {"middle": 16, "last": 20}


def pixels(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGBA"))


def sprite(sheet: Pixels, line: int, column: int, side: int) -> Pixels:
    return sheet[line * side : (line + 1) * side, column * side : (column + 1) * side].astype(int)


def test_every_units_icon_stands_at_its_place_on_the_sheet(run: RunDirectory) -> None:
    sheet = pixels(unit_folder(run) / "icons.webp")
    assert sheet.shape == (2 * neurons.ICON, 16 * neurons.ICON, 4)
    for unit in range(UNITS["last"]):
        middle = sprite(sheet, unit // 16, unit % 16, neurons.ICON)[24:40, 24:40]
        assert np.abs(middle[..., :3].mean((0, 1)) - shade(unit)).max() < 12, unit
    assert sprite(sheet, 1, 4, neurons.ICON)[..., 3].max() == 0, "no unit, no icon"


def test_a_sheet_of_very_many_units_is_wider_not_too_high() -> None:
    assert neurons.icons_across(112) == 16
    for units in (3000, 4000, 8192, 20_000):
        across = neurons.icons_across(units)
        assert across % 16 == 0
        assert -(-units // across) * neurons.ICON < 16_384, "what a WebP can be"


def test_the_layers_table_has_a_value_for_each_unit(run: RunDirectory) -> None:
    table = read_json(unit_folder(run) / "units.json")
    assert table["layer"] == "last"
    assert table["units"] == 20
    assert table["largest"][:3] == [4, 0, 6]
    assert table["never_active"] == [int(unit == NEVER) for unit in range(20)]
    assert table["active_share"][0] == 0.5
    assert table["selectivity"][:3] == [0.125, None, 0.125]
    assert table["invariance"][4] == 1
    assert table["invariance"][NEVER] is None
    assert table["classes"][5] == [[(5 + place) % 7, round(1 - 0.1 * place, 4)] for place in range(5)]
    assert table["correlated"][7] == [[0, 0.75]]


def test_the_effects_of_all_units_on_all_classes(run: RunDirectory, tmp_path: Path) -> None:
    body = (unit_folder(run) / "classes.bin").read_bytes()
    units, classes = UNITS["last"], 4
    assert len(body) == 4 * classes + classes * units
    scale = np.frombuffer(body[: 4 * classes], "<f4")
    expected = np.array([class_effects(unit) for unit in range(units)]).T
    expected[:, NEVER] = 0
    assert scale == pytest.approx(np.abs(expected).max(1))
    steps = np.frombuffer(body[4 * classes :], np.uint8).reshape(classes, units).astype(float)
    assert np.abs((steps - 128) / 127 * scale[:, None] - expected).max() <= scale.max() / 254 + 1e-6
    assert set(steps[:, NEVER]) == set(steps[3]) == {128}
    assert steps[0, 19] == 255
    assert steps[2, 0] == 1

    plain = RunDirectory(tmp_path / "run")
    shutil.copytree(run.store("last"), plain.store("last"))
    shutil.copytree(run.neurons("last"), plain.neurons("last"))
    unit_folder(plain).mkdir(parents=True)
    for part in plain.neurons("last").glob("part-*.parquet"):
        table = pq.read_table(part)
        none = pa.array([[]] * len(table), tables.UNITS.field("effects").type)
        at = table.schema.get_field_index("effects")
        pq.write_table(table.set_column(at, tables.UNITS.field("effects"), none), part)
    names = [path.name for path in neurons.write_layer(plain, "last")]
    assert names == ["icons.webp", "units.json"], "a run without attributions"


def test_a_units_sheet_has_a_line_for_each_kind_of_picture(run: RunDirectory) -> None:
    unit = 5
    facts = read_json(unit_folder(run) / f"unit-{unit:04d}.json")
    sheet, side = pixels(unit_folder(run) / f"unit-{unit:04d}.webp"), facts["sprite"]
    assert facts["rows"] == {"top": 3, "whole": 3, "spread": 8, "rotated": 24, "mirrored": 24, "scaled": 5}
    assert sheet.shape == (6 * side, 24 * side, 4)
    assert np.abs(sprite(sheet, 3, 23, side)[..., :3].mean((0, 1)) - (DEGREES[23] // 2, 0, 0)).max() < 12
    assert np.abs(sprite(sheet, 4, 23, side)[..., :3].mean((0, 1)) - (0, DEGREES[23] // 2, 0)).max() < 12
    assert np.abs(sprite(sheet, 5, 4, side)[..., :3].mean((0, 1)) - (0, 0, 100)).max() < 12


def test_the_pictures_of_a_unit_stand_side_by_side_as_large_as_they_were_drawn(run: RunDirectory) -> None:
    unit = 5
    assert read_json(unit_folder(run) / f"unit-{unit:04d}.json")["pictures"] == PICTURES
    sheet = pixels(unit_folder(run) / f"unit-{unit:04d}-pictures.webp")
    side = sheet.shape[0]
    assert sheet.shape[1] == PICTURES * side
    assert side == UnitTables(run, "last").units(range(unit, unit + 1), ["unit", "size"])[0]["size"]
    for number in range(PICTURES):
        assert np.abs(sprite(sheet, 0, number, side)[..., :3].mean((0, 1)) - shade(unit, number)).max() < 12


def test_the_patches_are_those_of_the_rows(run: RunDirectory) -> None:
    """The first patch of a unit, cut here by itself, is what stands on its sheet, and lies where its frame says."""
    unit, config = 5, run.config()
    facts, side = read_json(unit_folder(run) / f"unit-{unit:04d}.json"), neurons.UNIT_SPRITE
    sheet = pixels(unit_folder(run) / f"unit-{unit:04d}.webp")
    row = UnitTables(run, "last").statistics(range(unit, unit + 1))[0]["top"][0]
    listing = Listing.load(run.listing)
    cropper = Cropper(run, listing, "last", seed=config.seed)
    ((picture, (row_of_picture,)),) = list(cropper.pictures({key_of(row)}))
    assert picture is not None
    patch = cropper.patch(picture, row_of_picture, side)
    assert np.abs(sprite(sheet, 0, 0, side)[..., :3] - patch.astype(int)).mean() < 8
    other = sprite(sheet, 0, 1, side)[..., :3]
    assert np.abs(other - patch.astype(int)).mean() > 20, "the next one is of another picture"
    assert facts["top"][0]["image"] == listing.keys[row["image_id"]]
    assert facts["top"][0]["activation"] == 9
    x0, y0, x1, y1 = (round(edge * side) for edge in facts["top"][0]["frame"])
    whole = sprite(sheet, 1, 0, side)[max(0, y0) : y1, max(0, x0) : x1]
    solid = whole[..., 3] == 255
    assert np.abs(whole[solid][:, :3].mean(0) - patch.mean((0, 1))).max() < 25


def test_figures_of_a_unit(run: RunDirectory) -> None:
    facts = read_json(unit_folder(run) / "unit-0005.json")
    assert facts["histogram"] == {"low": 0, "high": 9, "counts": list(range(64))}
    assert [patch["share"] for patch in facts["spread"]] == pytest.approx(np.arange(8) / 7, abs=1e-3)
    assert len(facts["supports"]) == 7
    assert facts["opposes"] == [[6, -0.5]]
    turned = facts["tuning"]
    assert turned["degrees"] == list(DEGREES)
    assert turned["response"] == pytest.approx(turning(5), rel=1e-3)
    assert turned["per_patch"] == [turned["response"]] * PATCHES
    assert set(turned["mirrored"]) == {0}, "what is below zero is no answer"
    assert turned["scaled"] == [2] * 5
    assert turned["largest_response"] == 3.25
    assert facts["note"] is None


def test_a_unit_that_never_fires_has_its_picture_and_a_sentence(run: RunDirectory) -> None:
    facts = read_json(unit_folder(run) / f"unit-{NEVER:04d}.json")
    assert facts["tuning"] is None
    assert facts["note"] == "The unit never fires in this data."
    assert facts["top"] == []
    assert facts["rows"]["rotated"] == 0
    sheet = pixels(unit_folder(run) / f"unit-{NEVER:04d}.webp")
    assert sheet.shape == (1 * neurons.UNIT_SPRITE, 8 * neurons.UNIT_SPRITE, 4), "only the lines that have pictures"


@pytest.mark.parametrize("grid", [4, 8])
def test_heat_bytes_are_the_cells_means(run: RunDirectory, grid: int) -> None:
    columns = ["row", "col", "count", "mean"]
    table = pq.read_table(run.cells("last"), columns=columns, filters=[("grid", "=", grid)])
    means = to_numpy(table["mean"])
    where = run.site_grid("last", grid)
    heat = np.frombuffer((where / "units-000.bin").read_bytes(), np.uint8).reshape(20, -1)
    assert read_json(where / "cells.json")["row"] == table["row"].to_pylist(), "in the order of the cells"
    mask = to_numpy(table["count"]) >= run.config().cells.min_count
    scale = np.abs(means[mask]).max(0)
    values = (heat.astype(float) - 128) / 127 * scale[:, None]
    assert np.abs(values.T - np.clip(means, -scale, scale)).max() <= scale.max() / 254 + 1e-6
    assert heat.max() == 255


def test_heat_comes_in_files_of_fifty_units(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (run.site_grid("last", 4) / "units-000.bin").read_bytes()
    monkeypatch.setattr(neurons, "UNITS_PER_FILE", 15)
    files = [path for path in neurons.write_heat(run, "last", 4, run.config().cells.min_count) if path.suffix == ".bin"]
    assert [path.name for path in files] == ["units-000.bin", "units-001.bin"]
    assert b"".join(path.read_bytes() for path in files) == whole
    assert len(files[1].read_bytes()) * 3 == len(files[0].read_bytes())
    files[1].unlink()
    (run.site_grid("last", 4) / "units-000.bin").write_bytes(whole)


def test_the_nearest_earlier_layer_comes_last(run: RunDirectory, tmp_path: Path) -> None:
    """In the circuits of a unit the nearest one comes first."""
    fake = RunDirectory(tmp_path / "run")
    for layer in ("a", "b", "c"):
        shutil.copytree(run.store("last"), fake.store(layer))
        fake.cells(layer).parent.mkdir(exist_ok=True)
        shutil.copy(run.cells("last"), fake.cells(layer))
    write_neurons(fake, ["a", "b", "c"])
    assert UnitTables(fake, "c").earlier() == ["b", "a"]
    facts = neurons.neuron_facts(fake, ("c",))
    assert facts is not None
    assert facts["layers"][0]["earlier"] == ["a", "b"]
    assert [circuit["layer"] for circuit in unit_circuit_facts(UnitTables(fake, "c"), range(1))[0]] == ["b", "a"]


def test_pictures_that_are_gone_are_left_out_and_counted(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = Listing.load(run.listing)
    row = UnitTables(run, "last").statistics(range(5, 6))[0]["top"][1]
    read = Listing.read
    gone = row["image_id"]
    monkeypatch.setattr(Listing, "read", lambda self, image: b"no picture" if image == gone else read(self, image))
    monkeypatch.setattr(neurons, "_target", lambda run, layer: tmp_path)
    _, failed = neurons.write_units(run, listing, "last", range(5, 6), seed=run.config().seed)
    assert failed == 1
    facts = read_json(tmp_path / "unit-0005.json")
    assert facts["rows"]["top"] == facts["rows"]["whole"] == len(facts["top"]) == PATCHES - 1
    assert listing.keys[gone] not in [patch["image"] for patch in facts["top"]]


def test_the_sheet_is_a_webp_that_is_not_too_large(run: RunDirectory) -> None:
    body = (unit_folder(run) / "unit-0005.webp").read_bytes()
    assert Image.open(BytesIO(body)).format == "WEBP"
    assert len(body) < 60_000
