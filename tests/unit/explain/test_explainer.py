"""A run's explainer, against its store and its mistakes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from explained import encoded, photo
from PIL import Image

from atlas.errors import AtlasError, ConfigError
from atlas.explain.explainer import Explainer
from atlas.rundir.directory import RunDirectory


def test_the_attributions_are_those_of_the_store(explainer: Explainer, workshop: Path) -> None:
    """A picture that is one of the run's views, whole, gives what the store holds of it."""
    store = explainer.run.store("middle")
    row = store.take([5], ["image", "box", "y", "x", "activation", "attribution"])
    source = np.asarray(Image.open(workshop / "pictures" / str(row["image"][0])).convert("RGB"))
    x0, y0, x1, y1 = (int(side) for side in row["box"][0])
    picture = explainer.look(encoded(source[y0:y1, x0:x1]))
    y, x = int(row["y"][0]), int(row["x"][0])
    np.testing.assert_allclose(picture.maps("middle")[:, y, x], row["activation"][0], rtol=2e-2, atol=2e-2)
    classes = range(store.classes and len(store.classes))
    attributions = picture.attribution(list(classes))
    effects = [attributions[number]["middle"][y, x] for number in classes]
    np.testing.assert_allclose(effects, row["attribution"][0].astype(np.float32), rtol=3e-2, atol=3e-3)


def test_channels_are_drawn_and_wrong_ones_told(explainer: Explainer) -> None:
    icons = list(explainer.draw_channels("", "stem", [7, 2]))
    assert [icon.number for icon in icons] == [7, 2]
    assert np.std(icons[0].pixels) > 5
    with pytest.raises(ConfigError, match=r"Layer 'stem' of .* has no channel 12: it has 12, counted from 0"):
        next(explainer.draw_channels("", "stem", [12]))
    with pytest.raises(ConfigError, match="gives no map of activations"):
        next(explainer.draw_channels("", "head", [1]))


def test_classes_and_layers_are_found_by_name(explainer: Explainer) -> None:
    assert explainer.class_of("class 3") == 3
    assert explainer.class_of("4") == 4
    with pytest.raises(ConfigError, match="has no class 9: it has 7, counted from 0"):
        explainer.class_of("9")
    with pytest.raises(ConfigError, match=r"The network has no class 'klass 3' .* Near names: class 3"):
        explainer.class_of("klass 3")
    with pytest.raises(ConfigError, match="The run has no layer 'stem'; it has middle, last"):
        explainer.layer("stem")


def test_a_network_that_has_changed_is_refused(tiny: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {**tiny.network_facts(), "sha256": "0" * 64}
    monkeypatch.setattr(RunDirectory, "network_facts", lambda *_: facts)
    with pytest.raises(AtlasError, match="has other weights now than when the run was made"):
        Explainer(tiny.path)


def test_of_a_run_at_work_cells_are_named_as_their_icons_come(tiny: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(tiny.path, run.path)
    whole = Explainer(run.path).look(encoded(photo(1)))
    coarse, fine = sorted(run.config().cells.grids)

    def grids(layer: str) -> set[int | None]:
        cells = explainer.cells(layer, whole.placements[layer])
        return {None if cell is None else cell[0] for cell in cells}

    later = tmp_path / "later"
    later.mkdir()
    cells_marker = run.folder("cells") / "last.json"
    shutil.move(run.icons("middle", fine), later / "icons")
    shutil.move(cells_marker, later / "cells.json")

    explainer = Explainer(run.path)
    assert fine not in grids("middle")
    assert coarse in grids("middle")
    assert grids("last") == {None}, "the cells are not cut yet"
    assert explainer.look(encoded(photo(1))).placements.keys() == whole.placements.keys()
    shutil.move(later / "icons", run.icons("middle", fine))
    shutil.move(later / "cells.json", cells_marker)
    for layer in ("middle", "last"):
        assert explainer.cells(layer, whole.placements[layer]) == whole.explainer.cells(layer, whole.placements[layer])
    assert fine in grids("middle")
