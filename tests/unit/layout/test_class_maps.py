"""Which rows are on a map of classes: what may be asked for, and what is chosen."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from class_maps import OF_CLASSES, columns_of
from made_rows import SETTINGS, clusters
from tiny_run import configure

from atlas.errors import ConfigError
from atlas.layout.class_maps import ClassRows, choose_rows, lay_out
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from pipelines.pipeline import run


def test_classes_that_the_network_does_not_know_stop_a_run_before_it_begins(
    workshop: Path, scheduler: str, tmp_path: Path
) -> None:
    classes_of_layout = {
        "class_atlas": ["class 9", "class 3", "Class 3"],
        "class_pair": [["class 1", "dog"], ["class 1", "CLASS 1"]],
    }
    with pytest.raises(ConfigError) as caught:
        run(configure(workshop, scheduler, tmp_path / "run", layout=classes_of_layout))
    assert "layout.class_atlas: tiny:make: the network has no class 'class 9' among its 7. Near names: " in str(
        caught.value
    )
    assert "layout.class_pair: tiny:make: the network has no class 'dog'" in str(caught.value)
    assert "layout.class_atlas: Class 3 and class 3 are the same class of tiny:make; give it once." in str(caught.value)
    assert "layout.class_pair: CLASS 1 and class 1 are the same class of tiny:make; give it once." in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
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
def test_what_does_not_go_together_is_a_sentence(workshop: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(workshop, "tcp://none", workshop / "x", **changes)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("by", ["attribution", "predicted"])
def test_a_class_atlas_holds_the_rows_that_speak_for_its_class(
    undisturbed: RunDirectory, workshop: Path, by: str
) -> None:
    attribution, predicted = columns_of(undisturbed, "last")
    number = int(np.bincount(predicted).argmax())
    layout = {"class_atlas": [f"class {number}"], "class_rows": 20, "class_by": by}
    config = configure(workshop, "tcp://none", workshop / "x", layout=layout)
    atlas_map = maps_of(config.layers, config.layout, config.cells)[-1]
    classes = [f"class {one}" for one in range(7)]
    rows = choose_rows(undisturbed.shards("last"), [atlas_map], config.layout, classes)[0].rows
    allowed = np.flatnonzero(attribution[:, number] > 0 if by == "attribution" else predicted == number)
    sure = pq.read_table(undisturbed.shards("last"), columns=["confidence"])["confidence"].to_numpy()
    strength = attribution[:, number] if by == "attribution" else sure
    expected = allowed[np.argsort(-strength[allowed], kind="stable")]
    np.testing.assert_array_equal(rows, np.sort(expected[:20]))
    assert len(rows) == 20
    # By attribution at most a tenth of the layer.
    many = configure(workshop, "tcp://none", workshop / "x", layout=layout | {"class_rows": 200})
    rows = choose_rows(
        undisturbed.shards("last"), [maps_of(many.layers, many.layout, many.cells)[-1]], many.layout, classes
    )[0].rows
    assert len(rows) == (28 if by == "attribution" else min(len(allowed), 200))


def test_a_pair_holds_each_row_once_and_says_which_class_it_speaks_for(
    undisturbed: RunDirectory, workshop: Path
) -> None:
    attribution, _ = columns_of(undisturbed, "last")
    config = configure(workshop, "tcp://none", workshop / "x", layout=OF_CLASSES)
    maps = maps_of(config.layers, config.layout, config.cells)[-2:]
    atlas_map = maps[-1]
    classes = [f"class {one}" for one in range(7)]
    single, pair = choose_rows(undisturbed.shards("last"), maps, config.layout, classes)
    assert atlas_map.classes == ("class 1", "class 4")
    assert single.difference is None
    assert len(set(pair.rows.tolist())) == len(pair.rows)
    for number in (1, 4):
        most = np.argsort(-attribution[:, number], kind="stable")[:14]  # a tenth of 288 rows, half for each class
        assert set(most[attribution[most, number] > 0].tolist()) <= set(pair.rows.tolist())
    assert pair.difference is not None
    np.testing.assert_allclose(pair.difference, attribution[pair.rows, 4] - attribution[pair.rows, 1])


def test_a_pair_goes_from_one_class_on_the_left_to_the_other_on_the_right() -> None:
    rows, group = clusters(300, centres=3)
    difference = np.random.default_rng(0).normal(0.4, 1, 300).astype(np.float32)
    difference[5] = 0
    places = lay_out(rows, ClassRows(np.arange(300), difference), SETTINGS, seed=0)
    assert np.isfinite(places).all()
    np.testing.assert_array_equal(np.argsort(places[:, 0]), np.argsort(difference))
    assert (places[difference < 0, 0] < 0.5).all()
    assert (places[difference > 0, 0] > 0.5).all()
    assert places[5, 0] == 0.5
    # Along v, in one dimension, like lies next to like: the groups are three stretches.
    down = group[np.argsort(places[:, 1])]
    assert (np.diff(down) != 0).sum() < 12
    np.testing.assert_array_equal(places, lay_out(rows, ClassRows(np.arange(300), difference), SETTINGS, seed=0))
