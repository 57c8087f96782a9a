"""Maps beside a layer's own: of one class, of two, by other axes, shared by several layers and networks."""

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_layout import SETTINGS, clusters, quality
from tiny_run import contents, tiny_values

import atlas
from atlas.class_atlas import Chosen, choose_rows, lay_out
from atlas.config import Config, validate
from atlas.cutting import patch_box
from atlas.errors import ConfigError
from atlas.grid import cell_of
from atlas.images import open_picture
from atlas.layout import fit_layout, principal_axes, unit_box
from atlas.maps import class_number, maps_of
from atlas.neighbors import unit_rows
from atlas.patches import BLOCK, SPRITE
from atlas.rundir import RunDirectory
from atlas.site import heat_maps
from atlas.store import read_metadata
from atlas.verify import verify
from atlas.views import backdrop, cut_view
from pipelines.pipeline import run

OF_CLASSES = {"class_atlas": ["class 2"], "class_pair": ["class 1", "class 4"], "class_rows": 60, "class_grids": [3, 6]}


def configure(workshop: Path, scheduler: str, out: Path, **changes: Any) -> Config:
    values = tiny_values(workshop) | {"out": str(out), "cluster": {"kind": "address", "address": scheduler}}
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
    return validate(values, "test")


@pytest.fixture(scope="module")
def of_classes(
    workshop: Path, scheduler: str, undisturbed: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """A finished run that is then asked for maps of classes."""
    folder = tmp_path_factory.mktemp("classes") / "run"
    shutil.copytree(undisturbed.path, folder)
    return run(configure(workshop, scheduler, folder, layout=OF_CLASSES))


def names_of(directory: RunDirectory) -> list[str]:
    return [each.name for each in maps_of(directory.config()) if each.classes and each.layer == "last"]


def columns_of(directory: RunDirectory, layer: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Attributions and predicted classes of all rows of a layer."""
    rows = pq.read_table(directory.shards(layer), columns=["attribution", "predicted"])
    return np.array(rows["attribution"].to_pylist(), np.float32), rows["predicted"].to_numpy()


# Names


def test_a_maps_name_tells_all_that_it_depends_on(workshop: Path, tmp_path: Path) -> None:
    def names(**layout: Any) -> list[str]:
        return [each.name for each in maps_of(configure(workshop, "tcp://none", tmp_path, layout=layout))]

    assert names(class_atlas=["tabby"]) == ["middle", "middle--tabby", "last", "last--tabby"]
    assert names(class_pair=["tabby", "lynx"], class_layers=["last"]) == ["middle", "last", "last--tabby--lynx"]
    usual = names(class_atlas=["tabby"])
    seen = {usual[1]}
    for changed in ({"class_rows": 99}, {"class_by": "predicted"}, {"class_grids": [4, 8]}):
        again = names(class_atlas=["tabby"], **changed)
        assert again[0] == "middle"
        assert again[1].startswith("middle--tabby--")
        assert again[1] not in seen
        seen.add(again[1])
    odd = names(class_atlas=["Hermit Crab", "hermit crab", "hermit-crab", "Ñandú/1"])
    assert len(set(odd)) == 10
    assert all(name.isascii() and "/" not in name and " " not in name for name in odd)


def test_classes_are_found_as_people_write_them() -> None:
    classes = ("tabby, tabby cat", "Lynx", "lynx", "7")
    assert class_number("tabby, tabby cat", classes) == 0
    assert class_number("Tabby", classes) == 0
    assert class_number("lynx", classes) == 2, "as it is written comes first"
    assert class_number("LYNX", classes) == 1
    assert class_number("7", classes) == 3
    with pytest.raises(ConfigError, match=r"has no class 'lynz' among its 4\. Near names: .*[Ll]ynx"):
        class_number("lynz", classes)


def test_classes_that_the_network_does_not_know_stop_a_run_before_it_begins(
    workshop: Path, scheduler: str, tmp_path: Path
) -> None:
    asked = {
        "class_atlas": ["class 9", "class 3", "Class 3"],
        "class_pair": [["class 1", "dog"], ["class 1", "CLASS 1"]],
    }
    with pytest.raises(ConfigError) as caught:
        run(configure(workshop, scheduler, tmp_path / "run", layout=asked))
    assert "layout.class_atlas: tiny:make: the network has no class 'class 9' among its 7. Near names: " in str(
        caught.value
    )
    assert "layout.class_pair: tiny:make: the network has no class 'dog'" in str(caught.value)
    assert "layout.class_atlas: Class 3 and class 3 are the same class of tiny:make; give it once." in str(caught.value)
    assert "layout.class_pair: CLASS 1 and class 1 are the same class of tiny:make; give it once." in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layout": {"class_atlas": ["a"]}, "collect": {"attributions": False}}, "class_atlas goes by attributions"),
        ({"layout": {"class_pair": ["a", "b"]}, "collect": {"attributions": False}}, "class_pair goes by attributions"),
        ({"layout": {"axes": "classes"}, "collect": {"attributions": False}}, "axes: classes goes by attributions"),
        (
            {"layout": {"class_pair": ["a"]}},
            "expected two classes, such as [lemon, strawberry], or a list of such pairs",
        ),
        ({"layout": {"class_pair": [["a", "b"], ["c"]]}}, "expected two classes"),
        ({"layout": {"backend": "cuml"}}, "deterministic: true is of backend: umap"),
        ({"layout": {"class_atlas": ["a"], "class_layers": ["lost"]}}, "names 'lost', which is not among the layers"),
        ({"layout": {"class_pair": ["a", "a"]}}, "expected two different classes"),
        ({"layout": {"class_grids": [4, 9]}}, "expected grids that double"),
        ({"layers": ["middle", "last@old"]}, "'old', which is not under compare"),
        ({"compare": {"old": {"name": "tiny:make"}}}, "none of the layers is of it, such as LAYER@old"),
    ],
)
def test_what_does_not_go_together_is_told(workshop: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(workshop, "tcp://none", workshop / "x", **changes)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400


def test_by_prediction_no_attributions_are_needed(workshop: Path) -> None:
    asked = {"class_atlas": ["a"], "class_by": "predicted"}
    config = configure(workshop, "tcp://none", workshop / "x", layout=asked, collect={"attributions": False})
    assert [each.classes for each in maps_of(config)] == [(), ("a",), (), ("a",)]


# Which rows, and where


@pytest.mark.parametrize("by", ["attribution", "predicted"])
def test_a_class_atlas_holds_the_rows_that_speak_for_its_class(
    undisturbed: RunDirectory, workshop: Path, by: str
) -> None:
    attribution, predicted = columns_of(undisturbed, "last")
    number = int(np.bincount(predicted).argmax())
    asked = {"class_atlas": [f"class {number}"], "class_rows": 20, "class_by": by}
    config = configure(workshop, "tcp://none", workshop / "x", layout=asked)
    each = maps_of(config)[-1]
    classes = [f"class {one}" for one in range(7)]
    rows = choose_rows(undisturbed.shards("last"), [each], config.layout, classes)[0].rows
    allowed = np.flatnonzero(attribution[:, number] > 0 if by == "attribution" else predicted == number)
    sure = pq.read_table(undisturbed.shards("last"), columns=["confidence"])["confidence"].to_numpy()
    strength = attribution[:, number] if by == "attribution" else sure
    expected = allowed[np.argsort(-strength[allowed], kind="stable")]
    np.testing.assert_array_equal(rows, np.sort(expected[:20]))
    assert len(rows) == 20
    # By attribution at most a tenth of the layer.
    many = configure(workshop, "tcp://none", workshop / "x", layout=asked | {"class_rows": 200})
    rows = choose_rows(undisturbed.shards("last"), [maps_of(many)[-1]], many.layout, classes)[0].rows
    assert len(rows) == (28 if by == "attribution" else min(len(allowed), 200))


def test_a_pair_holds_each_row_once_and_says_which_class_it_speaks_for(
    undisturbed: RunDirectory, workshop: Path
) -> None:
    attribution, _ = columns_of(undisturbed, "last")
    config = configure(workshop, "tcp://none", workshop / "x", layout=OF_CLASSES)
    each = maps_of(config)[-1]
    classes = [f"class {one}" for one in range(7)]
    single, chosen = choose_rows(undisturbed.shards("last"), maps_of(config)[-2:], config.layout, classes)
    assert each.classes == ("class 1", "class 4")
    assert single.difference is None
    assert len(set(chosen.rows.tolist())) == len(chosen.rows)
    for number in (1, 4):
        most = np.argsort(-attribution[:, number], kind="stable")[:14]  # a tenth of 288 rows, half for each class
        assert set(most[attribution[most, number] > 0].tolist()) <= set(chosen.rows.tolist())
    assert chosen.difference is not None
    np.testing.assert_allclose(chosen.difference, attribution[chosen.rows, 4] - attribution[chosen.rows, 1])


def test_a_pair_goes_from_one_class_on_the_left_to_the_other_on_the_right() -> None:
    rows, group = clusters(300, centres=3)
    difference = np.random.default_rng(0).normal(0.4, 1, 300).astype(np.float32)
    difference[5] = 0
    places = lay_out(rows, Chosen(np.arange(300), difference), SETTINGS, seed=0)
    assert np.isfinite(places).all()
    np.testing.assert_array_equal(np.argsort(places[:, 0]), np.argsort(difference))
    assert (places[difference < 0, 0] < 0.5).all()
    assert (places[difference > 0, 0] > 0.5).all()
    assert places[5, 0] == 0.5
    # Along v, in one dimension, like lies next to like: the groups are three stretches.
    down = group[np.argsort(places[:, 1])]
    assert (np.diff(down) != 0).sum() < 12
    np.testing.assert_array_equal(places, lay_out(rows, Chosen(np.arange(300), difference), SETTINGS, seed=0))


# In a run


def test_asking_for_classes_leaves_all_other_maps_as_they_are(
    of_classes: RunDirectory, undisturbed: RunDirectory
) -> None:
    before, after = (contents(each, ("collect", "layout", "cells", "render")) for each in (undisturbed, of_classes))
    assert {name: after.get(name) for name in before} == before
    more = [name for name in after if name not in before]
    assert len(more) > 10
    assert all("--class-" in name for name in more)


def test_rows_that_are_not_of_the_class_have_no_place(of_classes: RunDirectory) -> None:
    config = of_classes.config()
    for each in [each for each in maps_of(config) if each.classes]:
        table = pq.read_table(of_classes.layout(each.name))
        assert table["image_id"].equals(pq.read_table(of_classes.layout(each.layer))["image_id"])
        u, reasons = table["u"].to_numpy(), np.array(table["dropped"].to_pylist(), object)
        shards = of_classes.shards(each.layer)
        [chosen] = choose_rows(shards, [each], config.layout, read_metadata(shards[0])["classes"])
        others = np.setdiff1d(np.arange(len(u)), chosen.rows)
        assert np.isnan(u[others]).all()
        assert set(reasons[others]) == {"other class"}
        assert np.isfinite(u[chosen.rows]).mean() > 0.9
        assert set(reasons[chosen.rows]) <= {None, "outlier"}


def test_cells_icons_report_and_site_have_the_maps_of_classes(of_classes: RunDirectory) -> None:
    config = of_classes.config()
    facts = json.loads((of_classes.folder("publish") / "atlas.json").read_text())
    shown = {layer["path"]: layer for layer in facts["layers"]}
    report = json.loads(of_classes.report.read_text())["layers"]
    for each in maps_of(config):
        assert shown[each.name]["of_classes"] == list(each.classes)
        assert shown[each.name]["name"] == each.title
        assert [grid["grid"] for grid in shown[each.name]["grids"]] == list(each.grids)
        u, v = (pq.read_table(of_classes.layout(each.name))[name].to_numpy() for name in ("u", "v"))
        for grid in each.grids:
            cells = pq.read_table(of_classes.cells(each.name), filters=[("grid", "=", grid)])
            numbers = cell_of(u, v, grid)
            counts = np.bincount(numbers[numbers >= 0], minlength=grid * grid)
            told = dict(zip(zip(cells["row"].to_pylist(), cells["col"].to_pylist()), cells["count"].to_pylist()))
            assert told == {divmod(int(cell), grid): int(counts[cell]) for cell in np.flatnonzero(counts)}
            drawn = int((counts >= config.cells.min_count).sum())
            assert report[each.name]["icons"][str(grid)]["n"] == drawn > 0
        assert (of_classes.folder("publish") / each.name / "atlas.dzi").is_file()
    assert [layer["name"] for layer in facts["layers"]][3:5] == ["last", "last: class 2"]
    assert shown[names_of(of_classes)[1]]["name"] == "last: class 1 → class 4"
    assert verify(of_classes).problems == []


def test_a_map_of_classes_opens_for_analysis(of_classes: RunDirectory) -> None:
    opened = atlas.open_run(of_classes.path)
    name = names_of(of_classes)[0]
    assert opened.layers == ("middle", "last")
    assert name in opened.maps
    kept = opened.layout(name)
    assert kept.num_rows - kept["u"].null_count == sum(opened.cells(name, 6)["count"].to_pylist())
    assert opened.icons(name, 3).num_rows > 0
    assert opened.mosaic(name, 3).size[0] >= 32
    with pytest.raises(ConfigError, match=r"no grid of 4 in last--class-2--\w+; it has 3, 6"):
        opened.cells(name, 4)
    with pytest.raises(ConfigError, match="is a map of classes; give its layer, 'last'"):
        opened.store(name)
    with pytest.raises(ConfigError, match=r"has no map 'last--class-3'.*Did you mean last--class-2"):
        opened.layout("last--class-3")


def test_a_lost_map_of_a_class_comes_again_as_it_was(of_classes: RunDirectory, workshop: Path, scheduler: str) -> None:
    before = contents(of_classes, ("layout", "cells"))
    name = names_of(of_classes)[1]
    of_classes.layout(name).unlink()
    problems = verify(of_classes).problems
    assert [problem.where for problem in problems] == [f"layout/{name}.parquet"]
    (of_classes.folder("layout") / f"class-{name}.json").unlink()
    run(of_classes.config(), until="cells")
    assert contents(of_classes, ("layout", "cells")) == before


def test_a_fit_that_is_made_again_takes_all_that_was_made_from_it_along(
    of_classes: RunDirectory, tmp_path: Path
) -> None:
    """What was placed in the first fit does not fit the second; cells and icons that stay the same stay."""
    shutil.copytree(of_classes.path, tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    values = of_classes.config().plain() | {"out": str(directory.path)}
    before = {path.name: path.stat().st_mtime_ns for path in directory.folder("layout").glob("*.json")}
    (directory.folder("layout") / "fit-last.json").unlink()
    run(validate(values, "test"), until="layout")
    after = {path.name: path.stat().st_mtime_ns for path in directory.folder("layout").glob("*.json")}
    again = {name for name in after if after[name] != before[name]}
    assert again == {
        "fit-last.json",
        "box.json",
        "quality-middle.json",
        "quality-last.json",
        *(f"class-{name}.json" for name in names_of(directory)),
    }
    assert verify(directory).problems == []


def test_other_exemplars_leave_the_icons_as_they_are(of_classes: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(of_classes.path, tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    before = contents(directory, ("layout", "render"))
    values = of_classes.config().plain() | {"out": str(directory.path)}
    values["cells"] |= {"exemplars": 2, "diverse_exemplars": 1}
    run(validate(values, "test"))
    assert contents(directory, ("layout", "render")) == before
    assert not list(directory.path.glob("icons.*"))
    cells = atlas.open_run(directory.path).cells("last", 8)
    assert max(map(len, cells["exemplars"].to_pylist())) == 2
    assert max(map(len, cells["diverse_exemplars"].to_pylist())) == 1
    sheets = (directory.site_grid("last", 8) / "details").glob("*.json")
    assert {json.loads(sheet.read_text())["columns"] for sheet in sheets} == {3}
    assert atlas.open_run(directory.path).icons("last", 8).num_rows > 0
    assert verify(directory).problems == []


def test_a_class_of_too_few_rows_is_left_out_and_told(
    workshop: Path, scheduler: str, undisturbed: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One has too few rows for a map, one too few in each cell, and one has only its coarse grid."""
    predicted = {layer: columns_of(undisturbed, layer)[1] for layer in ("middle", "last")}
    often = np.bincount(predicted["last"], minlength=7)
    never, most = int(often.argmin()), int(often.argmax())
    assert often[never] < 3
    shutil.copytree(undisturbed.path, tmp_path / "run")
    values = {"class_atlas": [f"class {never}", f"class {most}"], "class_by": "predicted", "class_rows": 10}
    for grids in ([2, 4, 8, 16, 32, 64, 128], [128, 256]):
        asked = configure(
            workshop, scheduler, tmp_path / "run", layout={**values, "class_grids": grids}, cells={"min_count": 3}
        )
        empty, full = (each for each in maps_of(asked) if each.classes and each.layer == "last")
        directory = run(asked)
        told = " ".join(capsys.readouterr().out.split())
        rows = ("No row is", "1 row is", "2 rows are")[often[never]]
        few = f"{rows} predicted for class {never}, and a map needs 3. Take more pictures."
        assert f"{empty.name}: not in the site. {few}" in told, told
        facts = json.loads((directory.folder("publish") / "atlas.json").read_text())
        shown = {layer["path"]: [grid["grid"] for grid in layer["grids"]] for layer in facts["layers"]}
        assert empty.name not in shown
        cells = pq.read_table(directory.cells(full.name), columns=["grid", "count"]).to_pylist()
        drawn = [grid for grid in grids if any(cell["grid"] == grid and cell["count"] >= 3 for cell in cells)]
        assert shown.get(full.name, []) == drawn
        for grid in grids:
            assert directory.site_grid(full.name, grid).exists() == (grid in drawn)
        if grids[0] == 2:
            assert 0 < len(drawn) < len(grids)
        else:
            assert drawn == []
            few = f"10 rows are predicted for class {most}, but no cell has 3 of them."
            assert (
                f"{full.name}: not in the site. {few} Give coarser layout.class_grids, or take more pictures." in told
            )
        report = json.loads(directory.report.read_text())["layers"][empty.name]
        assert report["layout"]["trustworthiness"] is None
        assert report["layout"]["chosen"] == often[never]
        assert report["layout"]["dropped"] == {"other class": 288}
        assert verify(directory).problems == []


def test_asking_for_a_class_publishes_only_what_is_new(
    of_classes: RunDirectory, workshop: Path, scheduler: str, tmp_path: Path
) -> None:
    shutil.copytree(of_classes.path, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "site").rglob("*.*") if path.is_file()}
    asked = OF_CLASSES | {"class_atlas": ["class 2", "class 3"]}
    directory = run(configure(workshop, scheduler, tmp_path / "run", layout=asked))
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    names = {path.relative_to(directory.folder("publish")).parts[0] for path in changed}
    assert names == {"index.html", "atlas.json", "icon.svg", "assets", ".markers"}
    assert {path.name for path in changed if path.parent.name == ".markers"} == {"page.json"}
    shown = [layer["name"] for layer in json.loads((directory.folder("publish") / "atlas.json").read_text())["layers"]]
    assert "last: class 3" in shown
    # And without it the page no longer shows it.
    run(configure(workshop, scheduler, tmp_path / "run", layout=OF_CLASSES))
    again = [layer["name"] for layer in json.loads((directory.folder("publish") / "atlas.json").read_text())["layers"]]
    assert again == [name for name in shown if not name.endswith("class 3")]
    assert verify(directory).problems == []


def test_heat_maps_tell_every_class_of_every_cell(of_classes: RunDirectory) -> None:
    config = of_classes.config()
    atlas_json = json.loads((of_classes.folder("publish") / "atlas.json").read_text())
    assert atlas_json["attributions"] is True
    for name, grid in (("last", 8), (names_of(of_classes)[0], 6)):
        folder = of_classes.site_grid(name, grid)
        facts = json.loads((folder / "cells.json").read_text())
        cells = pq.read_table(of_classes.cells(name), filters=[("grid", "=", grid)])
        assert facts["row"] == cells["row"].to_pylist()
        attribution = np.array(cells["attribution"].to_pylist(), np.float32)
        heat = np.frombuffer((folder / "classes-000.bin").read_bytes(), np.uint8).reshape(7, len(attribution))
        scale = np.array(facts["scale"])
        drawn = cells["count"].to_numpy() >= config.cells.min_count
        np.testing.assert_allclose(scale, np.abs(attribution[drawn]).max(0), rtol=1e-3)
        shown = (heat.astype(float) - 128) / 127 * scale[:, None]
        np.testing.assert_allclose(shown[:, drawn], attribution[drawn].T, atol=float(scale.max()) / 250)
        assert (heat[:, drawn] != 128).mean() > 0.9
        assert np.abs(heat[:, drawn].astype(int) - 128).max() == 127


def test_heat_maps_come_in_files_of_fifty_classes() -> None:
    attribution = np.random.default_rng(0).normal(size=(9, 120)).astype(np.float32)
    attribution[:, 3] = 0
    attribution[8] *= 100
    heat, scale = heat_maps(attribution, np.arange(9) < 8)
    assert heat.shape == (120, 9)
    assert (heat[3] == 128).all()
    assert scale[3] == 0
    assert set(np.abs(heat[4].astype(int) - 128)[:8].tolist()) & {127}
    assert (np.sign(heat[5].astype(int) - 128) == np.sign(attribution[:, 5])).mean() > 0.9


# Exemplars


def test_sheets_show_patches_and_the_whole_pictures_they_are_cut_from(of_classes: RunDirectory) -> None:
    config = of_classes.config()
    listing = pq.read_table(of_classes.listing)["image"].to_pylist()
    rows = {
        (row["image_id"], row["view"], row["draw"]): row for row in pq.read_table(of_classes.shards("last")).to_pylist()
    }
    metadata = read_metadata(of_classes.shards("last")[0])
    columns = config.cells.exemplars + config.cells.diverse_exemplars
    cells = {
        (cell["row"], cell["col"]): cell
        for cell in pq.read_table(of_classes.cells("last"), filters=[("grid", "=", 8)]).to_pylist()
        if cell["count"] >= config.cells.min_count
    }
    seen: set[tuple[int, int]] = set()
    folder = of_classes.site_grid("last", 8) / "details"
    for file in sorted(folder.glob("*.json")):
        told = json.loads(file.read_text())
        sheet = np.asarray(Image.open(file.with_suffix(".webp")).convert("RGBA")).astype(float)
        assert sheet.shape == (SPRITE * len(told["cells"]), SPRITE * 2 * columns, 4)
        for line, shown in enumerate(told["cells"]):
            cell = cells[shown["row"], shown["col"]]
            assert f"{shown['row'] // BLOCK}-{shown['col'] // BLOCK}" == file.stem
            seen.add((shown["row"], shown["col"]))
            expected = cell["exemplars"] + cell["diverse_exemplars"]
            assert [one["nearest"] for one in shown["exemplars"]] == [one in cell["exemplars"] for one in expected]
            for column, (one, key) in enumerate(zip(shown["exemplars"], expected)):
                row = rows[key["image_id"], key["view"], key["draw"]]
                assert one["image"] == row["image"] == listing[key["image_id"]]
                assert (one["predicted"], one["label"]) == (row["predicted"], row["label"])
                picture = open_picture(Path(config.images.source) / one["image"])
                box = patch_box(tuple(row["box"]), row["x"], row["y"], metadata)
                patch = cut_view(picture, box, SPRITE, backdrop(0, row["image"], row["view"]))
                sprite = sheet[line * SPRITE : (line + 1) * SPRITE]
                assert np.abs(sprite[:, column * SPRITE : (column + 1) * SPRITE, :3] - patch).mean() < 16
                whole = sprite[:, (columns + column) * SPRITE : (columns + column + 1) * SPRITE]
                # 128 × 96 pixels in the middle of a square sprite: clear above and below.
                assert (whole[:8, :, 3] == 0).all()
                assert (whole[-8:, :, 3] == 0).all()
                scale = SPRITE / 128
                frame = np.array(one["frame"]) * SPRITE
                np.testing.assert_allclose(frame[[0, 2]], np.array(box)[[0, 2]] * scale, atol=0.02)
                np.testing.assert_allclose(frame[[1, 3]], np.array(box)[[1, 3]] * scale + 10, atol=0.02)
    assert seen == set(cells)
    assert len(seen) > 5


def test_exemplars_of_a_cell_open_for_analysis(of_classes: RunDirectory) -> None:
    opened = atlas.open_run(of_classes.path)
    cell = max(opened.cells("last", 4).to_pylist(), key=lambda cell: cell["count"])
    found = opened.exemplars("last", 4, cell["row"], cell["col"], size=96)
    keys = cell["exemplars"] + cell["diverse_exemplars"]
    assert [one.cosine for one in found] == [key["cosine"] for key in keys]
    assert [one.nearest for one in found] == [True] * len(cell["exemplars"]) + [False] * len(cell["diverse_exemplars"])
    names = pq.read_table(of_classes.listing)["image"].to_pylist()
    for one, key in zip(found, keys):
        assert one.image == names[key["image_id"]]
        assert one.patch.size == (96, 96)
        assert one.picture.size == (128, 96)
        x0, y0, x1, y1 = one.box
        inside = x0 >= 0 and y0 >= 0 and x1 <= 128 and y1 <= 96
        if inside:
            cut = one.picture.crop((round(x0), round(y0), round(x1), round(y1))).resize((96, 96))
            assert np.abs(np.asarray(cut, float) - np.asarray(one.patch)).mean() < 20
    assert len(opened.members("last", 4, cell["row"], cell["col"])) == cell["count"]
    cells = opened.cells("last", 4)
    full = set(zip(cells["row"].to_pylist(), cells["col"].to_pylist()))
    empty = next((row, col) for row in range(4) for col in range(4) if (row, col) not in full)
    with pytest.raises(ConfigError, match="size=0: expected the patches' side in pixels"):
        opened.exemplars("last", 4, cell["row"], cell["col"], size=0)
    with pytest.raises(ConfigError, match=f"last, grid 4, has nothing at row {empty[0]}, col {empty[1]}"):
        opened.exemplars("last", 4, *empty)
    assert opened.members("last", 4, *empty).tolist() == []
    with pytest.raises(ConfigError, match="rows and columns 0 to 3"):
        opened.members("last", 4, 4, 0)


def test_the_members_of_all_cells_are_the_rows_that_have_a_place(of_classes: RunDirectory) -> None:
    opened = atlas.open_run(of_classes.path)
    name = names_of(of_classes)[0]
    cells = opened.cells(name, 3).to_pylist()
    members = [opened.members(name, 3, cell["row"], cell["col"]) for cell in cells]
    assert [len(rows) for rows in members] == [cell["count"] for cell in cells]
    placed = np.flatnonzero(np.isfinite(opened.layout(name)["u"].to_numpy()))
    np.testing.assert_array_equal(np.sort(np.concatenate(members)), placed)
    activations = opened.store("last").take(members[0], ["activation"])["activation"].astype(float)
    np.testing.assert_allclose(activations.mean(0), cells[0]["mean"], rtol=1e-3, atol=1e-5)


# Axes


def test_principal_axes_are_those_of_the_rows(
    workshop: Path, scheduler: str, undisturbed: RunDirectory, tmp_path: Path
) -> None:
    rows, _ = clusters(300)
    axes = principal_axes(rows)
    centred = rows - rows.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    for axis in range(2):
        expected = left[:, axis] * values[axis]
        assert abs(np.corrcoef(axes[:, axis], expected)[0, 1]) == pytest.approx(1, abs=1e-3)
    settings = SETTINGS.model_copy(update={"axes": "pca"})
    fit = fit_layout(rows, settings, seed=0, threads=1)
    kept = np.isfinite(fit.coordinates).all(1)
    np.testing.assert_array_equal(fit.coordinates[kept], axes[kept])
    np.testing.assert_array_equal(principal_axes(rows[::-1])[::-1].round(3), axes.round(3))
    # In a run each layer keeps its own axes, also where layers are aligned: they may be mirrored.
    shutil.copytree(undisturbed.path, tmp_path / "run")
    directory = run(configure(workshop, scheduler, tmp_path / "run", layout={"axes": "pca"}), until="layout")
    store = pq.read_table(directory.shards("middle"), columns=["activation"])["activation"]
    activations = unit_rows(np.array(store.to_pylist(), np.float32))
    table = pq.read_table(directory.layout("middle"))
    u, mine = table["u"].to_numpy(), principal_axes(activations)[:, 0]
    kept = np.isfinite(u)
    mine *= np.sign(np.corrcoef(u[kept], mine[kept])[0, 1])
    assert (np.diff(u[kept][np.argsort(mine[kept])]) >= -1e-6).mean() > 0.99


def test_by_classes_rows_of_like_effect_lie_together() -> None:
    """Rows that look alike but speak for different classes part, and the other way round."""
    rows, group = clusters(400)
    traits, effect = clusters(400, channels=9, centres=4, seed=3)
    fit = fit_layout(rows, SETTINGS, seed=0, threads=1, traits=traits)
    found = quality(traits, fit.coordinates)
    assert found["trustworthiness"] > 0.85 > quality(rows, fit.coordinates)["trustworthiness"]
    kept = np.isfinite(fit.coordinates).all(1)
    apart = np.linalg.norm(fit.coordinates[kept, None] - fit.coordinates[None, kept], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (effect[kept][apart.argmin(1)] == effect[kept]).mean() > 0.95
    assert (group[kept][apart.argmin(1)] == group[kept]).mean() < 0.5
    # New points are placed by their activations: they come with no attribution.
    assert fit.index.d == rows.shape[1]


def test_a_run_may_lay_out_its_rows_by_their_effect(
    workshop: Path, scheduler: str, undisturbed: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "run")
    directory = run(configure(workshop, scheduler, tmp_path / "run", layout={"axes": "classes"}), until="layout")
    attribution, _ = columns_of(directory, "last")
    table = pq.read_table(directory.layout("last"))
    places = np.stack([table["u"].to_numpy(), table["v"].to_numpy()], 1)
    box = json.loads((directory.folder("layout") / "quality-last.json").read_text())["facts"]
    assert box["trustworthiness"] == pytest.approx(quality(attribution, places)["trustworthiness"], abs=1e-3)
    assert box["trustworthiness"] > 0.9


# One layout for several layers, of one network or of two


def test_layers_may_share_one_layout(workshop: Path, scheduler: str, undisturbed: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "run")
    directory = run(configure(workshop, scheduler, tmp_path / "run", layout={"shared": True, "fit_rows": 200}))
    first, second = (pq.read_table(directory.layout(layer)) for layer in ("middle", "last"))
    assert first.equals(second)
    assert first["u"].null_count < 6
    cells = [pq.read_table(directory.cells(layer)) for layer in ("middle", "last")]
    assert cells[0].select(["grid", "row", "col", "count"]).equals(cells[1].select(["grid", "row", "col", "count"]))
    report = json.loads(directory.report.read_text())["layers"]
    for layer in ("middle", "last"):
        assert report[layer]["layout"]["trustworthiness"] > 0.8
        assert report[layer]["layout"]["alignment"] is None
    assert verify(directory).problems == []
    # A row comes back to its place by the activation of either layer.
    opened = atlas.open_run(directory.path)
    u, v = (first[name].to_numpy() for name in ("u", "v"))
    kept = np.flatnonzero(np.isfinite(u))[:40]
    for layer in ("middle", "last"):
        placed = opened.place(layer, opened.store(layer).take(kept.tolist(), ["activation"])["activation"])
        assert np.median(np.hypot(placed.u - u[kept], placed.v - v[kept])) < 0.05


@pytest.fixture(scope="module")
def compared(workshop: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Two networks over the same views, one of another size: one layout for both."""
    (workshop / "tiny_two.py").write_text(
        (workshop / "tiny.py").read_text().replace("manual_seed(3)", "manual_seed(8)").replace("20, 7)", "20, 5)")
    )
    config = configure(
        workshop, scheduler, tmp_path_factory.mktemp("compare") / "run",
        layers=["last", "last@two"], compare={"two": {"name": "tiny_two:make", "size": 64}}, layout={"shared": True},
    )  # fmt: skip
    return run(config)


def test_two_networks_see_the_same_places_of_the_same_views(
    compared: RunDirectory, undisturbed: RunDirectory, workshop: Path
) -> None:
    first, second = (pq.read_table(compared.shards(layer)) for layer in ("last", "last@two"))
    for name in ("image", "image_id", "view", "draw", "box", "place_x", "place_y", "label"):
        assert first[name].equals(second[name])
    told = [read_metadata(compared.shards(layer)[0]) for layer in ("last", "last@two")]
    assert [one["network"] for one in told] == ["tiny:make", "tiny_two:make"]
    assert [one["input_size"] for one in told] == [48, 64]
    assert [one["map_size"] for one in told] == [[12, 12], [16, 16]]
    assert [len(one["classes"]) for one in told] == [7, 5]
    # The first network's rows are those that it has when it is alone.
    alone = pq.read_table(undisturbed.shards("last"))
    assert first.select(["activation", "attribution", "predicted"]).equals(
        alone.select(["activation", "attribution", "predicted"])
    )
    # The second network's, brute force: its own pass over its own view.
    from tiny_two import make

    from atlas.networks import load

    network = load(make(), size=64)
    for row in second.to_pylist()[::97]:
        picture = open_picture(Path(compared.config().images.source) / row["image"])
        view = cut_view(picture, row["box"], 64, backdrop(0, row["image"], row["view"]))
        import torch

        with torch.no_grad():
            maps = network.activations(network.from_bytes(torch.from_numpy(view[None])), "last")
        np.testing.assert_allclose(row["activation"], maps[0, :, row["y"], row["x"]].numpy(), rtol=2e-3, atol=2e-3)


def test_the_same_cell_can_be_looked_at_in_both_networks(compared: RunDirectory) -> None:
    first, second = (pq.read_table(compared.cells(layer)) for layer in ("last", "last@two"))
    keys = ["grid", "row", "col", "count", "labels"]
    assert first.select(keys).equals(second.select(keys))
    assert not first["mean"].equals(second["mean"])
    icons = [
        {(icon["row"], icon["col"]): icon["png"] for part in compared.icons(layer, 4).glob("part-*.parquet")
         for icon in pq.read_table(part).to_pylist()}
        for layer in ("last", "last@two")
    ]  # fmt: skip
    assert icons[0].keys() == icons[1].keys()
    differ = [
        np.abs(np.asarray(Image.open(BytesIO(icons[0][cell])), float) - np.asarray(Image.open(BytesIO(icons[1][cell]))))
        for cell in icons[0]
    ]
    assert np.mean(differ) > 5
    facts = json.loads((compared.folder("publish") / "atlas.json").read_text())
    assert [network["name"] for network in facts["networks"]] == ["tiny:make", "tiny_two:make"]
    assert [layer["network"] for layer in facts["layers"]] == [0, 1]
    assert verify(compared).problems == []
    card = (compared.path / "store" / "README.md").read_text()
    assert "# Activations of tiny:make and tiny_two:make" in card
    assert "`last@two`: `tiny_two:make` at 64 px, 5 classes" in card


def test_networks_whose_layers_share_no_layout_are_aligned(
    compared: RunDirectory, workshop: Path, scheduler: str, tmp_path: Path
) -> None:
    shutil.copytree(compared.path, tmp_path / "run")
    values = compared.config().plain() | {"out": str(tmp_path / "run")}
    values["layout"] |= {"shared": False}
    directory = run(validate(values, "test"), until="layout")
    told = json.loads((directory.folder("layout") / "quality-last@two.json").read_text())["facts"]
    assert 0 < told["alignment"] < told["alignment_independent"]
    boxed = unit_box([np.stack([pq.read_table(directory.layout(layer))[name].to_numpy() for name in ("u", "v")], 1)
                      for layer in ("last", "last@two")])  # fmt: skip
    assert len(boxed[0]) == len(boxed[1]) == 288
