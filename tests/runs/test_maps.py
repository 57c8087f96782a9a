"""Maps of classes beside a layer's own, and the sheets of exemplars, on whole runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from class_maps import OF_CLASSES, columns_of
from PIL import Image
from tiny_run import configure, contents

import atlas
from atlas.cells.crops import patch_box
from atlas.cells.exemplars import exemplars_of
from atlas.check.verify import verify
from atlas.config.reading import validate
from atlas.errors import ConfigError
from atlas.layout.class_maps import choose_rows
from atlas.layout.lattice import cell_of
from atlas.pictures.decode import open_picture
from atlas.pictures.listing import Listing
from atlas.pictures.views import backdrop, crop_view
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import find_map, maps_of, maps_of_classes
from atlas.rundir.markers import write_marker
from atlas.site.sheets import BLOCK, CELL_SPRITE
from atlas.store.shards import read_metadata
from pipelines.pipeline import run


@pytest.fixture(scope="module")
def of_classes(
    workshop: Path, scheduler: str, undisturbed: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """A finished run that is then asked for maps of classes."""
    folder = tmp_path_factory.mktemp("classes") / "run"
    shutil.copytree(undisturbed.path, folder)
    return run(configure(workshop, scheduler, folder, layout=OF_CLASSES))


def names_of(directory: RunDirectory) -> list[str]:
    return [atlas_map.name for atlas_map in maps_of_classes("last", directory.config().layout)]


def names_of_pictures(directory: RunDirectory) -> list[str]:
    names: list[str] = pq.read_table(directory.listing)["image"].to_pylist()
    return names


# In a run


def test_asking_for_classes_leaves_all_other_maps_as_they_are(
    of_classes: RunDirectory, undisturbed: RunDirectory
) -> None:
    before, after = (
        contents(directory, ("collect", "layout", "cells", "render")) for directory in (undisturbed, of_classes)
    )
    assert {name: after.get(name) for name in before} == before
    more = [name for name in after if name not in before]
    assert len(more) > 10
    assert all("--class-" in name for name in more)


def test_rows_that_are_not_of_the_class_have_no_place(of_classes: RunDirectory) -> None:
    config = of_classes.config()
    maps = maps_of(config.layers, config.layout, config.cells)
    for atlas_map in [atlas_map for atlas_map in maps if atlas_map.classes]:
        table = pq.read_table(of_classes.layout(atlas_map.name))
        assert table["image_id"].equals(pq.read_table(of_classes.layout(atlas_map.layer))["image_id"])
        u, reasons = table["u"].to_numpy(), np.array(table["dropped"].to_pylist(), object)
        shards = of_classes.shards(atlas_map.layer)
        [class_rows] = choose_rows(shards, [atlas_map], config.layout, read_metadata(shards[0])["classes"])
        others = np.setdiff1d(np.arange(len(u)), class_rows.rows)
        assert np.isnan(u[others]).all()
        assert set(reasons[others]) == {"other class"}
        assert np.isfinite(u[class_rows.rows]).mean() > 0.9
        assert set(reasons[class_rows.rows]) <= {None, "outlier"}


def test_cells_icons_report_and_site_have_the_maps_of_classes(of_classes: RunDirectory) -> None:
    config = of_classes.config()
    facts = json.loads((of_classes.folder("publish") / "atlas.json").read_text())
    layers_on_page = {layer["path"]: layer for layer in facts["layers"]}
    report = json.loads(of_classes.report.read_text())["layers"]
    for atlas_map in maps_of(config.layers, config.layout, config.cells):
        assert layers_on_page[atlas_map.name]["classes_shown"] == list(atlas_map.classes)
        assert layers_on_page[atlas_map.name]["name"] == atlas_map.title
        assert [grid["grid"] for grid in layers_on_page[atlas_map.name]["grids"]] == list(atlas_map.grids)
        u, v = (pq.read_table(of_classes.layout(atlas_map.name))[name].to_numpy() for name in ("u", "v"))
        for grid in atlas_map.grids:
            cells = pq.read_table(of_classes.cells(atlas_map.name), filters=[("grid", "=", grid)])
            numbers = cell_of(u, v, grid)
            counts = np.bincount(numbers[numbers >= 0], minlength=grid * grid)
            in_table = dict(zip(zip(cells["row"].to_pylist(), cells["col"].to_pylist()), cells["count"].to_pylist()))
            assert in_table == {divmod(int(cell), grid): int(counts[cell]) for cell in np.flatnonzero(counts)}
            drawn_count = int((counts >= config.cells.min_count).sum())
            assert report[atlas_map.name]["icons"][str(grid)]["n"] == drawn_count > 0
        assert (of_classes.folder("publish") / atlas_map.name / "atlas.dzi").is_file()
    assert [layer["name"] for layer in facts["layers"]][3:5] == ["last", "last: class 2"]
    assert layers_on_page[names_of(of_classes)[1]]["name"] == "last: class 1 → class 4"
    assert verify(of_classes).problems == []


def test_a_map_of_classes_opens_for_analysis(of_classes: RunDirectory) -> None:
    opened_run = atlas.open_run(of_classes.path)
    name = names_of(of_classes)[0]
    assert opened_run.layers == ("middle", "last")
    assert name in opened_run.maps
    layout = opened_run.layout(name)
    assert layout.num_rows - layout["u"].null_count == sum(opened_run.cells(name, 6)["count"].to_pylist())
    assert opened_run.icons(name, 3).num_rows > 0
    assert opened_run.mosaic(name, 3).size[0] >= 32
    with pytest.raises(ConfigError, match=r"no grid of 4 in last--class-2--\w+; it has 3, 6"):
        opened_run.cells(name, 4)
    with pytest.raises(ConfigError, match="is a map of classes; give its layer, 'last'"):
        opened_run.store(name)
    with pytest.raises(ConfigError, match=r"has no map 'last--class-3'.*Did you mean last--class-2"):
        opened_run.layout("last--class-3")


def test_a_lost_map_of_a_class_comes_again_as_it_was(of_classes: RunDirectory, workshop: Path, scheduler: str) -> None:
    before = contents(of_classes, ("layout", "cells"))
    name = names_of(of_classes)[1]
    of_classes.layout(name).unlink()
    problems = verify(of_classes).problems
    assert [problem.where for problem in problems] == [f"layout/{name}.parquet"]
    (of_classes.folder("layout") / f"class-{name}.json").unlink()
    run(of_classes.config(), until="cells")
    assert contents(of_classes, ("layout", "cells")) == before


def turn_round(directory: RunDirectory, layer: str) -> None:
    """Turn a layer's coordinates by half a turn, as a fit that is not deterministic might give them, and vouch for
    them."""
    table = pq.read_table(directory.layout(layer))
    for number, name in enumerate(table.column_names):
        if name in ("u", "v"):
            table = table.set_column(number, table.schema.field(name), pc.subtract(1, table[name]).cast(pa.float32()))
    pq.write_table(table, directory.layout(layer))
    files = [directory.layout(name) for name in ("middle", "last")]
    write_marker(directory.folder("layout") / "box.json", key=directory.stage_key("layout"), files=files)


def test_a_fit_that_is_made_again_takes_all_that_was_made_from_it_along(
    of_classes: RunDirectory, tmp_path: Path
) -> None:
    """What was placed in the first fit does not fit the second; what is made from coordinates that come out the same
    stays, and what is made from others is made again."""
    shutil.copytree(of_classes.path, tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    values = of_classes.config().plain() | {"out": str(directory.path)}
    before = {path.name: path.stat().st_mtime_ns for path in directory.folder("layout").glob("*.json")}
    (directory.folder("layout") / "fit-last.json").unlink()
    run(validate(values, "test"), until="layout")
    after = {path.name: path.stat().st_mtime_ns for path in directory.folder("layout").glob("*.json")}
    again = {name for name in after if after[name] != before[name]}
    assert again == {"fit-last.json", "box.json"}
    assert verify(directory).problems == []

    before = contents(directory, ("cells", "render", "publish"))
    turn_round(directory, "last")
    run(validate(values, "test"))
    after = contents(directory, ("cells", "render", "publish"))
    different = {name for name in before if before[name] != after.get(name)}
    assert {
        "cells/last.parquet",
        "site/last/grid-004/cells.json",
        "icons/last/grid-004/part-00000.parquet",
    } <= different
    assert not {name for name in different if "middle" in name}
    assert len(list((directory.folder("render") / "last").glob("grid-004.*"))) == 1, "moved aside, not deleted"
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
        config = configure(
            workshop, scheduler, tmp_path / "run", layout={**values, "class_grids": grids}, cells={"min_count": 3}
        )
        empty, full = maps_of_classes("last", config.layout)
        directory = run(config)
        output = " ".join(capsys.readouterr().out.split())
        rows = ("No row is", "1 row is", "2 rows are")[often[never]]
        few = f"{rows} predicted for class {never}, and a map needs 3. Take more pictures."
        assert f"{empty.name}: not in the site. {few}" in output, output
        facts = json.loads((directory.folder("publish") / "atlas.json").read_text())
        grids_on_page = {layer["path"]: [grid["grid"] for grid in layer["grids"]] for layer in facts["layers"]}
        assert empty.name not in grids_on_page
        cells = pq.read_table(directory.cells(full.name), columns=["grid", "count"]).to_pylist()
        drawn_grids = [grid for grid in grids if any(cell["grid"] == grid and cell["count"] >= 3 for cell in cells)]
        assert grids_on_page.get(full.name, []) == drawn_grids
        for grid in grids:
            assert directory.site_grid(full.name, grid).exists() == (grid in drawn_grids)
        if grids[0] == 2:
            assert 0 < len(drawn_grids) < len(grids)
        else:
            assert drawn_grids == []
            few = f"10 rows are predicted for class {most}, but no cell has 3 of them."
            assert (
                f"{full.name}: not in the site. {few} Give coarser layout.class_grids, or take more pictures." in output
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
    layout = OF_CLASSES | {"class_atlas": ["class 2", "class 3"]}
    directory = run(configure(workshop, scheduler, tmp_path / "run", layout=layout))
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    names = {path.relative_to(directory.folder("publish")).parts[0] for path in changed}
    assert names == {"index.html", "atlas.json", "icon.svg", "assets", ".markers"}
    assert {path.name for path in changed if path.parent.name == ".markers"} == {"page.json"}
    names_on_page = [
        layer["name"] for layer in json.loads((directory.folder("publish") / "atlas.json").read_text())["layers"]
    ]
    assert "last: class 3" in names_on_page
    # And without it the page no longer shows it.
    run(configure(workshop, scheduler, tmp_path / "run", layout=OF_CLASSES))
    again = [layer["name"] for layer in json.loads((directory.folder("publish") / "atlas.json").read_text())["layers"]]
    assert again == [name for name in names_on_page if not name.endswith("class 3")]
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
        mask = cells["count"].to_numpy() >= config.cells.min_count
        np.testing.assert_allclose(scale, np.abs(attribution[mask]).max(0), rtol=1e-3)
        values = (heat.astype(float) - 128) / 127 * scale[:, None]
        np.testing.assert_allclose(values[:, mask], attribution[mask].T, atol=float(scale.max()) / 250)
        assert (heat[:, mask] != 128).mean() > 0.9
        assert np.abs(heat[:, mask].astype(int) - 128).max() == 127


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
    cells_on_sheets: set[tuple[int, int]] = set()
    folder = of_classes.site_grid("last", 8) / "details"
    for file in sorted(folder.glob("*.json")):
        details = json.loads(file.read_text())
        sheet = np.asarray(Image.open(file.with_suffix(".webp")).convert("RGBA")).astype(float)
        assert sheet.shape == (CELL_SPRITE * len(details["cells"]), CELL_SPRITE * 2 * columns, 4)
        for line, details_of_cell in enumerate(details["cells"]):
            cell = cells[details_of_cell["row"], details_of_cell["col"]]
            assert f"{details_of_cell['row'] // BLOCK}-{details_of_cell['col'] // BLOCK}" == file.stem
            cells_on_sheets.add((details_of_cell["row"], details_of_cell["col"]))
            expected = cell["exemplars"] + cell["diverse_exemplars"]
            assert [one["nearest"] for one in details_of_cell["exemplars"]] == [
                one in cell["exemplars"] for one in expected
            ]
            for column, (one, key) in enumerate(zip(details_of_cell["exemplars"], expected)):
                row = rows[key["image_id"], key["view"], key["draw"]]
                assert one["image"] == row["image"] == listing[key["image_id"]]
                assert (one["predicted"], one["label"]) == (row["predicted"], row["label"])
                picture = open_picture(Path(config.images.source) / one["image"])
                box = patch_box(tuple(row["box"]), row["x"], row["y"], metadata)
                patch = crop_view(picture, box, CELL_SPRITE, backdrop(0, row["image"], row["view"]))
                sprite = sheet[line * CELL_SPRITE : (line + 1) * CELL_SPRITE]
                assert np.abs(sprite[:, column * CELL_SPRITE : (column + 1) * CELL_SPRITE, :3] - patch).mean() < 16
                whole = sprite[:, (columns + column) * CELL_SPRITE : (columns + column + 1) * CELL_SPRITE]
                # 128 × 96 pixels in the middle of a square sprite: clear above and below.
                assert (whole[:8, :, 3] == 0).all()
                assert (whole[-8:, :, 3] == 0).all()
                scale = CELL_SPRITE / 128
                frame = np.array(one["frame"]) * CELL_SPRITE
                np.testing.assert_allclose(frame[[0, 2]], np.array(box)[[0, 2]] * scale, atol=0.02)
                np.testing.assert_allclose(frame[[1, 3]], np.array(box)[[1, 3]] * scale + 10, atol=0.02)
    assert cells_on_sheets == set(cells)
    assert len(cells_on_sheets) > 5


def test_exemplars_of_a_cell_open_for_analysis(of_classes: RunDirectory) -> None:
    opened_run = atlas.open_run(of_classes.path)
    cell = max(opened_run.cells("last", 4).to_pylist(), key=lambda cell: cell["count"])
    exemplars = opened_run.exemplars("last", 4, cell["row"], cell["col"], size=96)
    keys = cell["exemplars"] + cell["diverse_exemplars"]
    assert [one.cosine for one in exemplars] == [key["cosine"] for key in keys]
    assert [one.nearest for one in exemplars] == [True] * len(cell["exemplars"]) + [False] * len(
        cell["diverse_exemplars"]
    )
    names = names_of_pictures(of_classes)
    for one, key in zip(exemplars, keys):
        assert one.image == names[key["image_id"]]
        assert one.patch.size == (96, 96)
        assert one.picture.size == (128, 96)
        assert one.patch.mode == one.picture.mode == "RGB"
        x0, y0, x1, y1 = one.box
        inside = x0 >= 0 and y0 >= 0 and x1 <= 128 and y1 <= 96
        if inside:
            cut = one.picture.crop((round(x0), round(y0), round(x1), round(y1))).resize((96, 96))
            assert np.abs(np.asarray(cut, float) - np.asarray(one.patch)).mean() < 20
    assert len(opened_run.members("last", 4, cell["row"], cell["col"])) == cell["count"]
    cells = opened_run.cells("last", 4)
    full = set(zip(cells["row"].to_pylist(), cells["col"].to_pylist()))
    empty = next((row, col) for row in range(4) for col in range(4) if (row, col) not in full)
    with pytest.raises(ConfigError, match="size=0: expected the patches' side in pixels"):
        opened_run.exemplars("last", 4, cell["row"], cell["col"], size=0)
    with pytest.raises(ConfigError, match=f"last, grid 4, has nothing at row {empty[0]}, col {empty[1]}"):
        opened_run.exemplars("last", 4, *empty)
    assert opened_run.members("last", 4, *empty).tolist() == []
    with pytest.raises(ConfigError, match="rows and columns 0 to 3"):
        opened_run.members("last", 4, 4, 0)


def test_a_transparent_picture_lies_on_the_ground_of_its_patch(of_classes: RunDirectory) -> None:
    [image_id] = [number for number, name in enumerate(names_of_pictures(of_classes)) if name.endswith("04.png")]
    rows = pq.read_table(of_classes.shards("last"), columns=["image_id", "view", "draw"]).to_pylist()
    of_picture = [row for row in rows if row["image_id"] == image_id][:4]
    cell = {"exemplars": [{**row, "cosine": 0.5} for row in of_picture], "diverse_exemplars": []}
    config, listing = of_classes.config(), Listing.load(of_classes.listing)
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), "last")
    exemplars = exemplars_of(of_classes, listing, atlas_map, cell, size=96, seed=config.seed)
    source = open_picture(listing.read(image_id))
    clear = source[..., 3] == 0
    assert 0 < clear.mean() < 1
    assert len(exemplars) == 4
    for one, row in zip(exemplars, of_picture):
        ground, whole = backdrop(config.seed, one.image, row["view"]), np.asarray(one.picture)
        assert (whole[clear] == ground).all()
        np.testing.assert_array_equal(whole[~clear], source[~clear][:, :3])
        cut = crop_view(whole, one.box, 96, ground).astype(float)
        assert np.abs(cut - np.asarray(one.patch)).mean() < 2  # laid over the ground before it is scaled, not after
    assert len({np.asarray(one.picture)[clear][0].tobytes() for one in exemplars}) > 1  # a ground for each view


def test_the_members_of_all_cells_are_the_rows_that_have_a_place(of_classes: RunDirectory) -> None:
    opened_run = atlas.open_run(of_classes.path)
    name = names_of(of_classes)[0]
    cells = opened_run.cells(name, 3).to_pylist()
    members = [opened_run.members(name, 3, cell["row"], cell["col"]) for cell in cells]
    assert [len(rows) for rows in members] == [cell["count"] for cell in cells]
    rows_on_map = np.flatnonzero(np.isfinite(opened_run.layout(name)["u"].to_numpy()))
    np.testing.assert_array_equal(np.sort(np.concatenate(members)), rows_on_map)
    activations = opened_run.store("last").take(members[0], ["activation"])["activation"].astype(float)
    np.testing.assert_allclose(activations.mean(0), cells[0]["mean"], rtol=1e-3, atol=1e-5)
