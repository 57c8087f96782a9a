"""What is strange or broken in a source: it says why, and the rest goes on."""

import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from containers import images, outcomes, png, write_parquet, write_tar

from atlas.errors import ConfigError
from atlas.pictures.sources import list_images


def test_what_is_strange_in_a_folder_says_why_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "good.png",
        " .png",
        "\u3042é🐈.png",
        "line\nbreak.png",
        "gone.png",
        "grown.png",
        "secret.png",
        "pipe2.png",
    ):
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / " ").mkdir()
    (tmp_path / " " / "x.png").write_bytes(png(2))
    strange = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    (tmp_path / strange).write_bytes(png(3))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "closed").mkdir()
    really = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_images(images(tmp_path), 0)
    (tmp_path / "gone.png").unlink()
    (tmp_path / "grown.png").write_bytes(png(1) + b"more")
    (tmp_path / "pipe2.png").unlink()
    os.mkfifo(tmp_path / "pipe2.png")
    plain_open = os.open

    def open_unless_secret(path: str, flags: int) -> int:
        if str(path).endswith("secret.png"):  # root may read whatever the mode says
            raise PermissionError(13, "Permission denied")
        return plain_open(path, flags)

    monkeypatch.setattr(os, "open", open_unless_secret)
    size = len(png(1))
    assert outcomes(listing) == {
        "good.png": "",
        " .png": "",
        "\u3042é🐈.png": "",
        "line\nbreak.png": "",
        " /x.png": "",
        "caf\\xe9.png": "its name is not UTF-8",
        "pipe.jpg": "not a file, but a pipe, socket or device",
        "pipe2.png": "not a file",
        "link.jpg": "a link to nowhere",
        "loop.jpg": "Too many levels of symbolic links",
        "closed": "the folder cannot be read: permission denied",
        "gone.png": "the file is gone",
        "grown.png": f"has changed since it was listed: {size + 4:,} bytes in place of {size:,}",
        "secret.png": "permission denied",
    }


def test_names_in_tars_may_be_anything(tmp_path: Path) -> None:
    strange = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    write_tar(
        tmp_path / "a.tar",
        [("twice.png", png(0)), ("  .png", png(1)), ("あ.png", png(2)), (strange, png(3)), ("twice.png", png(4))],
    )
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    listing = list_images(images(tmp_path / "a.tar", shuffle=False), 0)
    assert listing.read(0) == png(0)
    errors = [(listing.keys[number], listing.table["error"][number].as_py()) for number in range(len(listing))]
    assert errors == [
        ("a.tar/twice.png", None),
        ("a.tar/  .png", None),
        ("a.tar/あ.png", None),
        ("a.tar/caf\\xe9.png", "its name is not UTF-8"),
        ("a.tar/twice.png", "the tar holds this name before: only the first is used"),
        ("a.tar/link.png", "a link, a pipe or a sparse file in the tar, not a plain one"),
    ]
    assert outcomes(listing)["a.tar/あ.png"] == ""


@pytest.mark.parametrize("cut", ["in a picture", "in a header", "between pictures", "damaged header"])
def test_a_cut_tar_gives_what_comes_before(packed: Path, tmp_path: Path, cut: str) -> None:
    write_tar(tmp_path / "whole.tar", [("w.png", png(50))])
    write_tar(tmp_path / "cut.tar", [(f"{number}.png", png(number)) for number in range(3)])
    with tarfile.open(tmp_path / "cut.tar") as archive:
        last = archive.getmembers()[2]
    data = (tmp_path / "cut.tar").read_bytes()
    ends = {"in a picture": last.offset_data + 9, "in a header": last.offset + 100, "between pictures": last.offset}
    if cut == "damaged header":
        data = data[: last.offset] + b"\xff" * 512 + data[last.offset + 512 :]
    else:
        data = data[: ends[cut]]
    (tmp_path / "cut.tar").write_bytes(data)
    errors = outcomes(list_images(images(tmp_path), 0))
    assert errors.pop("whole.tar/w.png") == errors.pop("cut.tar/0.png") == errors.pop("cut.tar/1.png") == ""
    if cut == "in a picture":
        assert errors.pop("cut.tar/2.png") == "the tar is cut in the middle of this picture"
    count = 3 if cut == "in a picture" else 2
    assert errors == {"cut.tar": f"the tar is cut or damaged after {count} pictures, which are used"}


def test_a_tar_that_has_changed_since_is_not_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", png(0))])
    listing = list_images(images(tmp_path), 0)
    with (tmp_path / "a.tar").open("ab") as file:
        file.write(b"more")
    assert "has changed since it was listed" in outcomes(listing)["a.tar/0.png"]


def test_a_bad_row_group_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [png(number) for number in range(12)], group=4)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    data[begin : begin + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    errors = outcomes(list_images(images(path), 0))
    good = {f"a.parquet/{row}" for row in (0, 1, 2, 3, 8, 9, 10, 11)}
    assert {key for key, error in errors.items() if not error} == good
    for key in errors.keys() - good:
        assert errors[key].startswith("row group 1 of a.parquet cannot be read: ")


def test_broken_containers_are_one_row_each(packed: Path, tmp_path: Path) -> None:
    for number in (0, 1):
        data = (packed / "data" / f"train-{number}.parquet").read_bytes()
        (tmp_path / f"{number}.parquet").write_bytes(data)
    (tmp_path / "2.parquet").write_bytes(data[:-20])
    (tmp_path / "3.parquet").touch()
    listing = list_images(images(tmp_path), 0)
    errors = outcomes(listing)
    assert errors.pop("2.parquet").startswith("cannot be read as a Parquet file: ")
    assert errors.pop("3.parquet").startswith("cannot be read as a Parquet file: ")
    assert len(errors) == 12
    assert not any(errors.values())
    assert sum(key.count("/") == 0 for key in list_images(images(tmp_path, classes=("dog",)), 0).keys) == 2
    with pytest.raises(ConfigError, match=r"no picture that can be read\. The first of 1: 3\.parquet: cannot be read"):
        list_images(images(tmp_path / "3.parquet"), 0)
