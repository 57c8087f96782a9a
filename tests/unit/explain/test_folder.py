"""The folder of an explanation: whose it is, what is removed, and the names of its files."""

import json
from pathlib import Path

import pytest

from atlas.errors import ConfigError
from atlas.explain.folder import _file_name, check_folder, prepare_folder


def earlier_folder(folder: Path, *files: str, **facts: object) -> Path:
    """A folder as an earlier explanation left it."""
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "explain.json").write_text(json.dumps({"made_by": "activation-atlas", "files": list(files), **facts}))
    return folder


def test_a_new_and_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "new" / "deep") == []
    assert not (tmp_path / "new").exists(), "it is only looked at"
    prepare_folder(tmp_path / "new" / "deep")
    assert (tmp_path / "new" / "deep").is_dir()
    assert check_folder(tmp_path / "new" / "deep") == []


def test_what_an_earlier_explanation_left_goes_and_nothing_else(tmp_path: Path) -> None:
    folder = earlier_folder(tmp_path / "out", "index.html", "last/icons.png")
    (folder / "notes.txt").write_text("mine")
    assert check_folder(folder) == ["index.html", "last/icons.png", "explain.json"]
    prepare_folder(folder)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["notes.txt"]


def test_a_file_that_is_gone_already_does_no_harm(tmp_path: Path) -> None:
    folder = earlier_folder(tmp_path / "out", "index.html")
    (folder / "index.html").unlink()
    prepare_folder(folder)
    assert list(folder.iterdir()) == []


def test_a_listed_file_outside_of_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("mine")
    folder = earlier_folder(tmp_path / "out")
    facts = {"made_by": "activation-atlas", "files": ["../photo.png", str(tmp_path / "photo.png")]}
    (folder / "explain.json").write_text(json.dumps(facts))
    prepare_folder(folder)
    assert (tmp_path / "photo.png").read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"made_by": "another", "files": []}', '{"made_by": "activation-atlas"}']
)
def test_a_folder_of_others_is_refused(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "explain.json").write_text(content)
    with pytest.raises(ConfigError, match=r"explain\.json was not written by atlas explain\. Give another folder"):
        prepare_folder(folder)
    assert (folder / "explain.json").read_text() == content


def test_other_things_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out .*out has other things in it\. Give a new or an empty folder\."):
        check_folder(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"notes\.txt is a file, expected a folder"):
        check_folder(tmp_path / "out" / "notes.txt")
    with pytest.raises(ConfigError, match=r"--out .* cannot be made \(Not a directory\)\. Give another folder\."):
        prepare_folder(tmp_path / "out" / "notes.txt" / "deep")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tabby, tabby cat", "tabby"),
        ("Egyptian cat", "egyptian-cat"),
        ("  a/b\\c..  ", "a-b-c"),
        ("猫", "class"),
        ("jack-o'-lantern", "jack-o-lantern"),
    ],
)
def test_a_class_is_part_of_a_files_name(name: str, file: str) -> None:
    assert _file_name(name) == file
