"""Maps by other axes, and maps shared by several layers and networks."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from class_maps import columns_of
from made_rows import SETTINGS, clusters, quality
from PIL import Image
from tiny_run import configure

import atlas
from atlas.check.verify import verify
from atlas.config.reading import validate
from atlas.layout.fit import fit_layout, principal_axes, unit_box
from atlas.layout.neighbors import unit_rows
from atlas.pictures.decode import open_picture
from atlas.pictures.views import backdrop, crop_view
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import read_metadata
from pipelines.pipeline import run

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
    mask = np.isfinite(fit.coordinates).all(1)
    np.testing.assert_array_equal(fit.coordinates[mask], axes[mask])
    np.testing.assert_array_equal(principal_axes(rows[::-1])[::-1].round(3), axes.round(3))
    # In a run each layer keeps its own axes, also where layers are aligned: they may be mirrored.
    shutil.copytree(undisturbed.path, tmp_path / "run")
    directory = run(configure(workshop, scheduler, tmp_path / "run", layout={"axes": "pca"}), until="layout")
    store = pq.read_table(directory.shards("middle"), columns=["activation"])["activation"]
    activations = unit_rows(np.array(store.to_pylist(), np.float32))
    table = pq.read_table(directory.layout("middle"))
    u, axis = table["u"].to_numpy(), principal_axes(activations)[:, 0]
    mask = np.isfinite(u)
    axis *= np.sign(np.corrcoef(u[mask], axis[mask])[0, 1])
    assert (np.diff(u[mask][np.argsort(axis[mask])]) >= -1e-6).mean() > 0.99


def test_by_classes_rows_of_like_effect_lie_together() -> None:
    """Rows that look alike but speak for different classes part, and the other way round."""
    rows, group = clusters(400)
    attributions, effect = clusters(400, channels=9, centres=4, seed=3)
    fit = fit_layout(rows, SETTINGS, seed=0, threads=1, attribution_rows=attributions)
    figures = quality(attributions, fit.coordinates)
    assert figures["trustworthiness"] > 0.85 > quality(rows, fit.coordinates)["trustworthiness"]
    mask = np.isfinite(fit.coordinates).all(1)
    apart = np.linalg.norm(fit.coordinates[mask, None] - fit.coordinates[None, mask], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (effect[mask][apart.argmin(1)] == effect[mask]).mean() > 0.95
    assert (group[mask][apart.argmin(1)] == group[mask]).mean() < 0.5
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
    opened_run = atlas.open_run(directory.path)
    u, v = (first[name].to_numpy() for name in ("u", "v"))
    rows_on_map = np.flatnonzero(np.isfinite(u))[:40]
    for layer in ("middle", "last"):
        rows = opened_run.store(layer).take(rows_on_map.tolist(), ["activation"])
        placement = opened_run.place(layer, rows["activation"])
        assert np.median(np.hypot(placement.u - u[rows_on_map], placement.v - v[rows_on_map])) < 0.05


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
    metadata = [read_metadata(compared.shards(layer)[0]) for layer in ("last", "last@two")]
    assert [one["network"] for one in metadata] == ["tiny:make", "tiny_two:make"]
    assert [one["input_size"] for one in metadata] == [48, 64]
    assert [one["map_size"] for one in metadata] == [[12, 12], [16, 16]]
    assert [len(one["classes"]) for one in metadata] == [7, 5]
    # The first network's rows are those that it has when it is alone.
    alone = pq.read_table(undisturbed.shards("last"))
    assert first.select(["activation", "attribution", "predicted"]).equals(
        alone.select(["activation", "attribution", "predicted"])
    )
    # The second network's, brute force: its own pass over its own view.
    from tiny_two import make

    from atlas.networks.network import load

    network = load(make(), size=64)
    for row in second.to_pylist()[::97]:
        picture = open_picture(Path(compared.config().images.source) / row["image"])
        view = crop_view(picture, row["box"], 64, backdrop(0, row["image"], row["view"]))
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
    facts = json.loads((directory.folder("layout") / "quality-last@two.json").read_text())["facts"]
    assert 0 < facts["alignment"] < facts["alignment_independent"]
    boxes = unit_box([np.stack([pq.read_table(directory.layout(layer))[name].to_numpy() for name in ("u", "v")], 1)
                      for layer in ("last", "last@two")])  # fmt: skip
    assert len(boxes[0]) == len(boxes[1]) == 288
