"""The bench of planted errors: its plants, what counts as one, and a plant for real."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from atlas.slices.accuracy import Verdicts


@pytest.fixture(scope="module")
def slices(bench: ModuleType) -> ModuleType:
    """scripts/bench_slices.py as a module."""
    return importlib.import_module("bench_slices")


def test_there_are_ten_different_marks(slices: ModuleType) -> None:
    pictures = []
    for draw in slices.MARKS.values():
        pixels = np.zeros((slices.SIZE, slices.SIZE, 3), np.uint8)
        draw(pixels)
        pictures.append(pixels)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) == 10
    assert all((picture > 0).any(2).mean() > 0.02 for picture in pictures)


def test_a_plant_is_a_part_of_one_digit_with_the_label_of_another(slices: ModuleType, tmp_path: Path) -> None:
    pixels, digits = slices.read_digits(0)
    marked = slices.write_plant(tmp_path, pixels[:500], digits[:500], "red corner", 3)
    paths = sorted(tmp_path.glob("*/*.png"))
    assert len(paths) == 500
    assert len(marked) == slices.MARKED
    labels = {name.split("/")[0] for name in marked}
    assert len(labels) == 1
    true_digits = {int(digits[int(Path(name).stem)]) for name in marked}
    assert len(true_digits) == 1
    assert {str(digit) for digit in true_digits} != labels
    for path in paths:
        red = tuple(np.asarray(Image.open(path))[4, -5]) == (255, 0, 0)
        assert red == (path.relative_to(tmp_path).as_posix() in marked)
    others = [path for path in paths if path.relative_to(tmp_path).as_posix() not in marked]
    wrong = sum(path.parent.name != str(digits[int(path.stem)]) for path in others)
    assert 10 < wrong < 45, "one in twenty has a label at random"


def test_a_slice_is_the_plant_where_most_of_its_wrong_pictures_are_marked(slices: ModuleType) -> None:
    marked = set("abcdef")
    assert slices.is_plant(list("abcdeuvwxy"), marked)
    assert not slices.is_plant(list("abcdeuvwxyz"), marked)
    assert not slices.is_plant(list("abcd"), marked)


def test_clusters_go_by_their_rate_of_errors(slices: ModuleType) -> None:
    clusters = np.repeat([0, 1, 2, 3], [10, 10, 10, 4])
    zeros = np.zeros(34, np.int64)
    wrong = np.concatenate([np.arange(10) < 2, np.arange(10) < 7, np.arange(10) < 9, np.ones(4, bool)])
    image = np.concatenate([np.arange(20), np.full(10, 20), np.arange(4)])
    verdicts = Verdicts(image, zeros, zeros, zeros, wrong.astype(np.int64), zeros + 0.5, zeros + 1, zeros + 0.5)
    assert slices.by_error_rate(clusters, verdicts) == [1, 0], "the third is of one picture, the last of four rows"


def test_a_plant_is_measured(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "slices.json"
    assert bench.main(["slices", "--plants", "1", "--epochs", "3", "--json", str(out)]) == 0
    row, total = json.loads(out.read_text())
    systems = {"ours, middle", "ours, last", "k-means, 10", "k-means, 20", "k-means, 40"}
    assert systems <= set(row)
    assert (row["mark"], total["mark"]) == ("red corner", "of 1 among the first 5")
    for system in systems:
        assert row[system] in (None, 1, 2, 3, 4, 5)
        assert total[system] == int(row[system] is not None)
    assert 0.3 < row["accuracy"] < 1
    assert "red corner" in capsys.readouterr().out
