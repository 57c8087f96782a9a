"""The scripts beside the package: what they write, and how they answer mistakes."""

import importlib
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import CHECKOUT, the_command
from PIL import Image

from atlas.rundir.directory import RunDirectory


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["/no/such/folder"], "There is no folder /no/such/folder."),
        (["one", "two"], "scripts/demo takes one folder of pictures, or nothing; it was given 2 words."),
    ],
)
def test_demo_answers_mistakes_before_it_installs_anything(arguments: list[str], sentence: str) -> None:
    process = script("scripts/demo", *arguments)
    assert process.returncode == 2
    assert process.stderr.startswith(sentence)


def test_demo_tells_how_it_is_called() -> None:
    process = script("scripts/demo", "--help")
    assert process.returncode == 0
    assert "scripts/demo FOLDER     your own pictures" in process.stdout


def test_sample_photos_are_those_of_the_packages(tmp_path: Path) -> None:
    from skimage import data

    process = script(sys.executable, "scripts/sample_photos.py", str(tmp_path))
    assert process.returncode == 0, process.stderr
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert {"astronaut", "chelsea", "coffee", "china", "flower"} <= names
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "coffee.png")), data.coffee())


def test_picture_lays_the_icons_on_the_grid(tmp_path: Path) -> None:
    from atlas.cells.icons import ICONS_SCHEMA
    from atlas.pictures.decode import encode_png

    colours = {(0, 1): (250, 20, 20), (1, 2): (20, 250, 20)}
    rows = [
        {
            **dict.fromkeys(ICONS_SCHEMA.names, 0),
            "row": row,
            "col": col,
            "png": encode_png(np.full((10, 10, 3), colour, np.uint8)),
            "flag": None,
        }
        for (row, col), colour in colours.items()
    ]
    folder = tmp_path / "run/icons/layer/grid-004"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, ICONS_SCHEMA), folder / "part-00000.parquet")
    out = tmp_path / "picture.png"
    process = script(
        sys.executable,
        "scripts/picture.py",
        str(tmp_path / "run"),
        "--layer",
        "layer",
        "--grid",
        "4",
        "--out",
        str(out),
    )
    assert process.returncode == 0, process.stderr
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (20, 20, 3), "cut to the cells that are drawn"
    assert pixels[5, 5].tolist() == [250, 20, 20]
    assert pixels[15, 15].tolist() == [20, 250, 20]
    assert pixels[15, 5].tolist() == [247, 247, 245]


def test_neurons_lie_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    neurons = importlib.import_module("neurons")
    monkeypatch.setattr(neurons, "NEURONS", {"_blocks.4": (9,), "_blocks.7": (24,)})
    monkeypatch.setattr(neurons, "SIZE", 48)
    monkeypatch.setattr(neurons, "LARGE", ("_blocks.4", 9, 64))
    monkeypatch.setattr("sys.argv", ["neurons.py", "--out", str(tmp_path)])
    neurons.main()
    sheet = np.asarray(Image.open(tmp_path / "neurons.webp").convert("RGB")).astype(int)
    assert sheet.shape == (48, 6 * (48 + 8) - 8, 3)
    left, right = sheet[:, :48], sheet[:, 56:104]
    assert left.std() > 20
    assert right.std() > 20
    assert abs(left - right).mean() > 20, "two neurons, two pictures"
    assert sheet[:, 110:].min() > 250, "the rest is empty"
    assert Image.open(tmp_path / "neuron-512.webp").size == (64, 64)


def test_a_picture_of_the_page_with_a_picture_explained(
    undisturbed: RunDirectory, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide's command, for the tiny run."""
    photo, picture = tmp_path / "photo.jpg", tmp_path / "image.webp"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(photo)
    names = {"runs/demo": str(undisturbed.path), "image.webp": str(picture), "photo.jpg": str(photo)}
    words = [names.get(word, word) for word in the_command("scripts/page_picture.py")]
    paths = os.pathsep.join([str(CHECKOUT), str(workshop)])
    process = subprocess.run(
        [sys.executable, *words], cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape == (900, 1440, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 2000, "icons, and the picture itself"


def test_stamp_shards_hold_equally_many_squares_of_each_stamp(tmp_path: Path) -> None:
    from atlas.config.sections import ImagesConfig
    from atlas.pictures.sources import list_images

    stamps = tmp_path / "stamps"
    for name, colour in {"animals/fish": (250, 20, 20, 255), "food/pear": (20, 250, 20, 255)}.items():
        (stamps / name).parent.mkdir(parents=True)
        Image.new("RGBA", (90, 70), colour).save(stamps / f"{name}.png")
    shards = []
    for out in (tmp_path / "one", tmp_path / "two"):
        process = script(sys.executable, "scripts/stamp_shards.py", str(stamps), str(out), "--pictures", "10")
        assert process.returncode == 0, process.stderr
        shards.append((out / "stamps-00000.tar").read_bytes())
    assert shards[0] == shards[1], "equal arguments give equal bytes"
    again = script(sys.executable, "scripts/stamp_shards.py", str(stamps), str(tmp_path / "one"), "--pictures", "10")
    assert "10 pictures in 1 shards" in again.stdout
    other = script(sys.executable, "scripts/stamp_shards.py", str(stamps), str(tmp_path / "one"), "--pictures", "8")
    assert other.returncode == 2
    assert "has shards already, of other stamps or another number of pictures than 8" in other.stderr
    assert (tmp_path / "one" / "stamps-00000.tar").read_bytes() == shards[0]
    listing = list_images(ImagesConfig(source=f"{tmp_path}/one/*.tar"), seed=0)
    assert sorted(key.rpartition("/")[2] for key in listing.keys) == sorted(
        f"{name}-{number:04d}.jpg" for name in ("fish", "pear") for number in range(5)
    )
    names = [listing.label_names[label] for label in listing.labels]
    assert sorted(names) == ["animals"] * 5 + ["food"] * 5
    for index, name in enumerate(names):
        with Image.open(BytesIO(listing.read(index))) as picture:
            assert picture.size == (256, 256)
            middle = np.asarray(picture.convert("RGB"))[128, 128]
        assert np.abs(middle - np.array((250, 20, 20) if name == "animals" else (20, 250, 20))).max() < 6


@pytest.mark.parametrize(
    ("stamps", "pictures", "sentence"),
    [
        ("nowhere", "5", "There is no folder"),
        (".", "5", "holds no PNG"),
        (".", "0", "--pictures is 0, expected at least 1."),
    ],
)
def test_stamp_shards_answer_mistakes(tmp_path: Path, stamps: str, pictures: str, sentence: str) -> None:
    out = tmp_path / "out"
    process = script(
        sys.executable, "scripts/stamp_shards.py", str(tmp_path / stamps), str(out), "--pictures", pictures
    )
    assert process.returncode == 2
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr
