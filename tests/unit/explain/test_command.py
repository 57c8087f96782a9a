"""atlas explain: what it writes, and its sentences for mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from explained import encoded, photo
from PIL import Image

from atlas.explain.__main__ import main
from atlas.explain.overlays import OPPOSE, SUPPORT
from atlas.rundir.directory import RunDirectory


def test_the_command_writes_pictures_figures_and_a_page(
    tiny: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    image, out = tmp_path / "my photo.png", tmp_path / "told"
    image.write_bytes(encoded(photo(4)))
    arguments = [str(tiny.path), str(image), "--out", str(out), "--steps", "2", "--layer", "last"]
    assert main([*arguments, "--class", "class 2", "--groups", "2", "--without-each"]) == 0
    assert capsys.readouterr().out == f"Written: {out / 'index.html'}\n"
    facts = json.loads((out / "explain.json").read_text())
    (layer,) = facts["layers"]
    assert (layer["path"], len(layer["groups"])) == ("last", 2)
    assert layer["classes"][0]["attribution"] == "last/attribution-class-2.png"
    rows, cols = layer["rows"], layer["cols"]
    assert Image.open(out / layer["icons"]).size == (32 * cols, 32 * rows)
    assert Image.open(out / "picture.png").size == (48, 48)
    effects = np.array(layer["attribution"]["2"]).reshape(rows, cols)
    pixels = np.asarray(Image.open(out / layer["classes"][0]["attribution"])).astype(int)
    top, left = np.unravel_index(np.abs(effects).argmax(), effects.shape)
    middle = pixels[(2 * top + 1) * 448 // (2 * rows), (2 * left + 1) * 448 // (2 * cols)]
    assert np.abs(middle - np.array(SUPPORT if effects[top, left] > 0 else OPPOSE)).max() < 60
    assert len(layer["classes"][0]["without_each"]) == rows * cols
    cosines = [cosine for cosine in layer["cosine"] if cosine is not None]
    assert len(cosines) == (np.array(layer["magnitude"]) > 0).sum()
    page = (out / "index.html").read_text()
    for file in facts["files"]:
        assert (out / file).is_file()
        assert file == "index.html" or f'"{file}"' in page
    assert "my photo.png, explained" in page
    assert "class 2" in page
    # Another time, for another class: what the first one left is gone.
    assert main([*arguments, "--groups", "0"]) == 0
    assert (
        not (out / "last/attribution-class-2.png").exists()
        or "attribution-class-2.png" in (out / "index.html").read_text()
    )
    assert not list((out / "last").glob("group-*"))


def last_line(capsys: pytest.CaptureFixture) -> str:
    """The last line, after the one that the network is being loaded."""
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["RUN", "no.png"], "There is no file no.png. Give the path of a picture."),
        (["RUN", "."], ". is a folder. Give the path of one picture."),
        (["nowhere", "photo.png"], "There is no run at nowhere"),
        (["RUN", "text.png"], "text.png is no picture in a known format"),
        (["RUN", "photo.png", "--layer", "head"], "The run has no layer 'head'; it has middle, last."),
        (["RUN", "photo.png", "--class", "dragon"], "The network has no class 'dragon'"),
        (["RUN", "photo.png", "--groups", "1"], "--groups 1: expected 2 to 10, or 0 for none."),
        (["RUN", "photo.png", "--steps", "0"], "--steps 0: expected 1 to 10,000."),
    ],
)
def test_mistakes_are_sentences_and_leave_nothing(
    tiny: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(encoded(photo(4)))
    Path("text.png").write_text("this is no picture")
    run = str(tiny.path)
    assert main([*(text.replace("RUN", run) for text in arguments), "--out", "told"]) == 2
    assert last_line(capsys).startswith(sentence)
    assert not Path("told").exists()


def test_folders_of_others_are_left_alone(tiny: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = tmp_path / "photo.png"
    image.write_bytes(encoded(photo(4)))
    for name, content in (("notes.txt", "mine"), ("explain.json", '{"files": ["../photo.png"]}')):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(content)
        assert main([str(tiny.path), str(image), "--out", str(folder)]) == 2
        assert "Give a" in capsys.readouterr().err
        assert (folder / name).read_text() == content
    for impossible in ("/proc/told", str(image / "told"), str(tmp_path / ("long" * 90))):
        assert main([str(tiny.path), str(image), "--out", impossible]) == 2
        assert last_line(capsys).startswith(f"--out {impossible} cannot be made (")
    assert main([str(tiny.path), str(image), "--out", str(image)]) == 2
    assert "is a file, expected a folder" in capsys.readouterr().err
    assert image.read_bytes() == encoded(photo(4))
