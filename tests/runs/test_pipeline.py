"""What a whole run makes, from pictures to site: a small network on real Dask workers, then the demo's."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from checkout import CHECKOUT
from numpy.typing import NDArray
from PIL import Image
from planned import planned
from rich.console import Console
from tiny_run import GRIDS, PLAIN_STAGES, atlas_run, configure, paint_pictures

from atlas import cli
from atlas.cells.icons import read_icons
from atlas.pictures.decode import decode_png
from atlas.rundir.directory import RunDirectory
from atlas.visualize import Icons, draw
from atlas.visualize.coarse_start import blend
from atlas.visualize.score import centre_activations, cosines
from pipelines import render, worker
from pipelines.pipeline import Output, run


def test_every_view_has_a_row_in_every_layer(undisturbed: RunDirectory) -> None:
    views = 24 * 12
    keys = {}
    for layer, channels in (("middle", 16), ("last", 20)):
        table = pq.read_table(undisturbed.shards(layer))
        assert table.num_rows == views
        assert {len(vector) for vector in table["activation"].to_pylist()} == {channels}
        assert {len(vector) for vector in table["attribution"].to_pylist()} == {7}
        keys[layer] = table.select(["image_id", "view", "draw", "place_x", "place_y"]).to_pylist()
    assert keys["middle"] == keys["last"]


def test_a_broken_picture_is_a_row_of_failures(undisturbed: RunDirectory) -> None:
    failures = pq.read_table(undisturbed.failures).to_pylist()
    assert failures == [{"image": "discs/broken.png", "view": None, "error": "not a picture in a known format"}]
    report = json.loads(undisturbed.report.read_text())
    assert report["collect"]["views"] == 25 * 12
    assert report["collect"]["failures"] == 12


def test_report_holds_icons_against_the_best_real_patches(undisturbed: RunDirectory) -> None:
    report = json.loads(undisturbed.report.read_text())
    for layer in ("middle", "last"):
        for grid in GRIDS:
            figures = report["layers"][layer]["icons"][str(grid)]
            cells = pq.read_table(undisturbed.cells(layer), filters=[("grid", "=", grid)]).to_pylist()
            best = {(cell["row"], cell["col"]): cell["exemplars"][0]["cosine"] for cell in cells}
            icons = read_icons(undisturbed, layer, grid).to_pylist()
            own_patches = [best[icon["row"], icon["col"]] for icon in icons]
            assert figures["n"] == len(icons) > 2
            assert figures["median_patch_cosine"] == pytest.approx(np.median(own_patches))
            above = [icon["cosine"] > patch for icon, patch in zip(icons, own_patches)]
            assert figures["above_patch_share"] == pytest.approx(np.mean(above))
            assert figures["near_rank_share"] == np.mean([icon["rank"] <= 3 for icon in icons])
            assert figures["median_cosine"] == pytest.approx(np.median([icon["cosine"] for icon in icons]))


def test_icons_are_drawn_as_the_run_says(
    undisturbed: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finer icons from the icons around their parents; with the batch settings of run.json; and the scores are those of
    the pictures."""
    monkeypatch.syspath_prepend(str(undisturbed.path.parent.parent))
    copied = RunDirectory(tmp_path / "run")
    shutil.copytree(undisturbed.path, copied.path)
    manifest = copied.read_manifest()
    manifest["stages"]["render"]["batch_settings"]["middle"] = {"precision": "float32", "batch": 5}
    copied.update_manifest(stages=manifest["stages"])
    calls: list[dict] = []

    def spy(*arguments: object, **options: Any) -> Icons:
        calls.append(options)
        return draw(*arguments, **options)

    monkeypatch.setattr(render, "draw", spy)
    config = copied.config()
    coarse, fine = (
        next(item for item in planned(render, config, copied) if f"middle/grid-{grid:03d}" in item.id) for grid in GRIDS
    )
    for item in (coarse, fine):
        render.run_item(item)
    assert [options["batch"] for options in calls] == [5, 5]
    assert [options["precision"] for options in calls] == ["float32", "float32"]
    assert calls[0]["start"] is None
    assert len(set(calls[0]["seeds"].tolist())) == 1  # the coarsest all begin alike
    cells = pq.read_table(copied.icons("middle", GRIDS[1]) / "part-00000.parquet").to_pylist()
    parents = {
        (icon["row"], icon["col"]): decode_png(icon["png"])
        for icon in read_icons(copied, "middle", GRIDS[0]).to_pylist()
    }
    expected = np.stack([blend(parents, cell["row"], cell["col"]) for cell in cells])
    np.testing.assert_array_equal(calls[1]["start"], expected)
    assert len(set(calls[1]["seeds"].tolist())) == len(cells)
    level = pq.read_table(copied.cells("middle"), filters=[("grid", "=", GRIDS[1]), ("count", ">=", 2)]).to_pylist()
    means = {(cell["row"], cell["col"]): np.array(cell["mean"], np.float32) for cell in level}
    network = worker.network(copied, config.networks()[""], threads=1)
    for cell in cells:
        activations = centre_activations(network, "middle", decode_png(cell["png"])[None])
        assert cell["cosine"] == pytest.approx(cosines(activations, means[cell["row"], cell["col"]][None])[0], abs=1e-4)


def test_layout_has_the_rows_of_the_store(undisturbed: RunDirectory) -> None:
    for layer in ("middle", "last"):
        layout, store = pq.read_table(undisturbed.layout(layer)), pq.read_table(undisturbed.shards(layer))
        for name in ("image_id", "view", "draw"):
            assert layout[name].to_pylist() == store[name].to_pylist()
        u = layout["u"].to_numpy()
        mask = np.isfinite(u)
        assert mask.mean() > 0.9
        assert u[mask].min() >= 0
        assert u[mask].max() <= 1
        assert [reason is None for reason in layout["dropped"].to_pylist()] == mask.tolist()


def test_each_drawn_cell_has_an_icon_with_its_score(undisturbed: RunDirectory) -> None:
    for layer in ("middle", "last"):
        cells = pq.read_table(undisturbed.cells(layer)).to_pylist()
        for grid in GRIDS:
            drawn_cells = {(cell["row"], cell["col"]) for cell in cells if cell["grid"] == grid and cell["count"] >= 2}
            icons = pq.read_table(sorted(undisturbed.icons(layer, grid).glob("*.parquet"))).to_pylist()
            assert {(icon["row"], icon["col"]) for icon in icons} == drawn_cells
            assert len(icons) == len(drawn_cells) > 5
            for icon in icons:
                assert icon["png"].startswith(b"\x89PNG")
                assert -1 <= icon["cosine"] <= 1
                assert 1 <= icon["rank"] <= len(drawn_cells)
                assert 0 <= icon["percentile"] <= 100


def top_classes(directory: RunDirectory, name: str, grid: int, cells: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values and numbers of the first ten classes of each cell, as the page reads them."""
    data = (directory.site_grid(name, grid) / "classes.bin").read_bytes()
    assert len(data) == cells * 10 * 6
    values, numbers = data[: cells * 40], data[cells * 40 :]
    return np.frombuffer(values, "<f4").reshape(cells, 10), np.frombuffer(numbers, "<u2").reshape(cells, 10)


def test_site_tells_what_the_stages_made(undisturbed: RunDirectory) -> None:
    site = undisturbed.folder("publish")
    facts = json.loads((site / "atlas.json").read_text())
    assert (site / "index.html").is_file()
    assert [layer["name"] for layer in facts["layers"]] == ["middle", "last"]
    assert [network["classes"] for network in facts["networks"]] == [[f"class {number}" for number in range(7)]]
    for layer in facts["layers"]:
        for grid in layer["grids"]:
            cells_on_page = json.loads((undisturbed.site_grid(layer["name"], grid["grid"]) / "cells.json").read_text())
            cells = pq.read_table(undisturbed.cells(layer["name"]), filters=[("grid", "=", grid["grid"])]).to_pylist()
            assert list(zip(cells_on_page["row"], cells_on_page["col"], cells_on_page["count"])) == [
                (cell["row"], cell["col"], cell["count"]) for cell in cells
            ]
            values, numbers = top_classes(undisturbed, layer["name"], grid["grid"], len(cells))
            assert (numbers[:, 7:] == 65535).all(), "there are seven classes"
            for line, attributions, cell in zip(numbers, values, cells):
                best = np.argsort(-np.array(cell["attribution"]), kind="stable")
                assert line[:7].tolist() == best.tolist()
                np.testing.assert_array_equal(attributions[:7], np.array(cell["attribution"], np.float32)[best])
            assert sum(cells_on_page["drawn"]) == grid["drawn"]


def test_tile_shows_the_icon_of_its_cell(undisturbed: RunDirectory) -> None:
    icons = pq.read_table(sorted(undisturbed.icons("last", 8).glob("*.parquet"))).to_pylist()
    tile = Image.open(undisturbed.site_grid("last", 8) / "icons_files" / "8" / "0_0.webp").convert("RGB")
    assert tile.size == (256, 256)
    from io import BytesIO

    for icon in icons:
        left, top = icon["col"] * 32, icon["row"] * 32
        pixels = np.asarray(tile.crop((left, top, left + 32, top + 32)), dtype=float)
        stored = np.asarray(Image.open(BytesIO(icon["png"])), dtype=float)
        assert np.abs(pixels - stored).mean() < 12


def test_patches_show_the_nearest_exemplar(undisturbed: RunDirectory) -> None:
    """The patch of a cell is cut again from its source, by the row of its first exemplar."""
    from atlas.cells.crops import patch_box
    from atlas.pictures.decode import open_picture
    from atlas.pictures.views import backdrop, crop_view
    from atlas.store.shards import read_metadata

    cell = next(c for c in pq.read_table(undisturbed.cells("last")).to_pylist() if c["grid"] == 4 and c["count"] >= 2)
    exemplar = cell["exemplars"][0]
    rows = pq.read_table(undisturbed.shards("last")).to_pylist()
    row = next(r for r in rows if all(r[name] == exemplar[name] for name in ("image_id", "view", "draw")))
    source = Path(undisturbed.config().images.source) / row["image"]
    box = patch_box(tuple(row["box"]), row["x"], row["y"], read_metadata(undisturbed.shards("last")[0]))
    cut = crop_view(open_picture(source), box, 32, backdrop(0, row["image"], row["view"]))
    tile = Image.open(undisturbed.site_grid("last", 4) / "patches_files" / "7" / "0_0.webp").convert("RGB")
    left, top = cell["col"] * 32, cell["row"] * 32
    pixels = np.asarray(tile.crop((left, top, left + 32, top + 32)), dtype=float)
    assert np.abs(pixels - cut).mean() < 12


def test_sisters_are_pictures_of_their_own(undisturbed: RunDirectory) -> None:
    """Each icon has its own seed and its own directions: no two are the same picture."""
    icons = pq.read_table(sorted(undisturbed.icons("last", 8).glob("*.parquet"))).to_pylist()
    assert len({icon["png"] for icon in icons}) == len(icons)
    assert len({icon["seed"] for icon in icons}) == len(icons)


def test_a_run_without_icons_says_why(workshop: Path, tmp_path: Path) -> None:
    paint_pictures(tmp_path / "one", 1)
    process = atlas_run(
        workshop,
        "tiny.yaml",
        "--set",
        f"images.source={tmp_path / 'one'}",
        "--set",
        "images.crops=1",
        "--set",
        "out=runs/one",
    )
    assert process.returncode == 0, process.stderr
    assert "No icon was drawn: no cell has cells.min_count = 2 rows." in process.stdout


def test_without_attributions(workshop: Path, scheduler: str) -> None:
    config = configure(workshop, scheduler, "plain", collect={"attributions": False})
    directory = run(config)
    assert "attribution" not in pq.read_schema(directory.shards("last")[0]).names
    cells = pq.read_table(directory.cells("last"), filters=[("grid", "=", 4)]).to_pylist()
    values, numbers = top_classes(directory, "last", 4, len(cells))
    for line, shares, cell in zip(numbers, values, cells):
        assert line[line < 65535].tolist() == [entry["class"] for entry in cell["predicted"]]
        np.testing.assert_allclose(shares.sum(), 1, rtol=1e-6)
    assert not list(directory.site_grid("last", 4).glob("classes-*.bin"))
    assert json.loads((directory.folder("publish") / "atlas.json").read_text())["attributions"] is False


def test_several_places_a_view(workshop: Path, scheduler: str) -> None:
    config = configure(workshop, scheduler, "places", collect={"positions_per_image": 3})
    directory = run(config, until="cells")
    table = pq.read_table(directory.shards("last"))
    assert table.num_rows == 24 * 12 * 3
    assert table["draw"].to_pylist()[:6] == [0, 1, 2, 0, 1, 2]
    cells = pq.read_table(directory.cells("last"), filters=[("grid", "=", 8)])
    layout = pq.read_table(directory.layout("last"))
    assert sum(cells["count"].to_pylist()) == table.num_rows - layout["u"].null_count


def test_the_demo_network_on_real_pictures(tmp_path: Path) -> None:
    """EfficientNet-Lite0 with its weights over a few photos, through all stages; the cells tell the truth of them."""
    from skimage import data

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, pixels in (("cat", data.chelsea()), ("coffee", data.coffee()), ("astronaut", data.astronaut())):
        Image.fromarray(pixels).save(pictures / f"{name}.jpg", quality=95)
    changes = [
        f"images.source={pictures}", "images.crops=40", "images.crop_scale=[0.6, 1.0]", "collect.rows_per_shard=60",
        "cells.grids=[3, 6]", "cells.min_count=4", "layers=[_blocks.4, _blocks.10]", "neurons=null",
        "publish.opens=_blocks.10", "render.size=80", "layout.deterministic=true",
        f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    process = atlas_run(
        tmp_path, str(CHECKOUT / "configs/demo.yaml"), *(word for change in changes for word in ("--set", change))
    )
    assert process.returncode == 0, process.stderr
    directory = RunDirectory(tmp_path / "run")
    names = json.loads((directory.folder("publish") / "atlas.json").read_text())["networks"][0]["classes"]
    rows = pq.read_table(directory.shards("_blocks.10"), columns=["image", "predicted"]).to_pylist()
    found_espresso = [names[row["predicted"]] == "espresso" for row in rows if row["image"] == "coffee.jpg"]
    assert np.mean(found_espresso) > 0.6
    # What the cells say of their members is true of the photos that they came from.
    cells = pq.read_table(directory.cells("_blocks.10")).to_pylist()
    columns = pq.read_table(directory.shards("_blocks.10"), columns=["image", "image_id"]).to_pylist()
    photo = {row["image_id"]: row["image"] for row in columns}
    expected = {
        "cat.jpg": {"tabby", "tiger cat", "Egyptian cat", "lynx", "Persian cat", "Siamese cat", "cougar"},
        "coffee.jpg": {"espresso", "cup", "coffee mug", "consomme"},
    }
    hits: dict[str, list[bool]] = {name: [] for name in expected}
    for cell in cells:
        name = photo[cell["exemplars"][0]["image_id"]]
        if name in expected:
            hits[name].append(any(names[entry["class"]] in expected[name] for entry in cell["predicted"][:2]))
        assert sum(entry["count"] for entry in cell["predicted"]) <= cell["count"]
    assert all(hits.values()), "each photo is the nearest exemplar somewhere"
    assert np.mean(hits["cat.jpg"]) > 0.6
    assert np.mean(hits["coffee.jpg"]) > 0.6
    report = json.loads(directory.report.read_text())
    for layer in ("_blocks.4", "_blocks.10"):
        icons = report["layers"][layer]["icons"]["3"]
        assert icons["median_cosine"] > 0.92
        assert icons["median_cosine_whitened"] > 0.6  # Σ of 240 views of six photos is nearly singular
        assert icons["rank1_share"] > 0.8
        assert icons["flagged_share"] == 0
    told_layout = report["layers"]["_blocks.10"]["layout"]
    assert told_layout["trustworthiness"] > 0.8  # what agreeing with the other layer leaves of it, among 120 views
    assert told_layout["alignment"] < 0.8 * told_layout["alignment_independent"]
    # Measured once by a worker, kept, and used again: nothing is drawn anew.
    settings = directory.read_manifest()["stages"]["render"]["batch_settings"]
    assert set(settings) == {"_blocks.4", "_blocks.10"}
    assert all(one["batch"] >= 1 and one["precision"] in ("float32", "bfloat16") for one in settings.values())


def test_a_log_and_the_status_tell_how_far_a_run_is(
    workshop: Path, scheduler: str, undisturbed: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    log = io.StringIO()
    config = configure(workshop, scheduler, "logged")
    directory = run(config, until="collect", output=Output(Console(file=log, width=300)))
    lines = [line for line in log.getvalue().splitlines() if re.match(r"\d\d:\d\d:\d\d collect \d", line)]
    shares = [int(re.search(r"collect (\d+)%", line)[1]) for line in lines]  # type: ignore[index]
    assert shares[-1] == 100
    assert shares == sorted(set(shares)), "a line for each tenth, once"
    assert re.fullmatch(r"\S+ collect 100%: 300 of 300 views, [\d.,]+/s, 12 failed; about 0 s left in all", lines[-1])
    assert re.search(r"^collect +\d+ s +\d+ s +\d+ *$", log.getvalue(), re.MULTILINE), "where the time went"
    assert cli.main(["status", str(directory.path)]) == 0
    assert re.search(r"^  collect  100%   300 of 300 views, ", capsys.readouterr().out, re.MULTILINE)

    assert cli.main(["status", str(undisturbed.path)]) == 0
    first, *stages = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r".*undisturbed: done, from \S+ \S+ to \S+ \S+", first)
    assert [line.split()[:2] for line in stages] == [[stage, "100%"] for stage in PLAIN_STAGES]
