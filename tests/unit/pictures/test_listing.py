"""The listing: every picture of a folder once, in the order of work."""

from pathlib import Path

import pyarrow as pa
import pytest
from containers import images

from atlas.errors import ConfigError
from atlas.pictures.listing import Listing
from atlas.pictures.sources import list_images


def test_a_folder_is_listed_whole_with_its_classes(pictures: Path) -> None:
    listing = list_images(images(pictures, shuffle=False), 0)
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*") if path.is_file())
    assert list(listing.keys) == names
    assert listing.label_names == ("broken", "cats", "dogs")
    labels = dict(zip(listing.keys, listing.labels))
    assert labels["cats/0.png"] == 1
    assert labels["dogs/photo.TIFF"] == 2
    assert labels["deep.png"] is None
    assert listing.source == str(pictures.absolute())


def test_hidden_files_other_files_and_folders_are_no_pictures(tmp_path: Path) -> None:
    for name in (".hidden.png", "notes.txt", "real.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert list_images(images(tmp_path), 0).keys[:] == ("real.JPG",)


def test_shuffling_goes_by_seed(pictures: Path) -> None:
    plain = list_images(images(pictures, shuffle=False), 0)
    orders = [list_images(images(pictures), seed).keys[:] for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert len({orders[0], orders[2], plain.keys[:]}) == 3
    assert sorted(orders[0]) == sorted(orders[2]) == list(plain.keys)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_limit_takes_the_beginning_and_leaves_the_labels(pictures: Path, shuffle: bool) -> None:
    whole = list_images(images(pictures, shuffle=shuffle), 3)
    for limit in (1, 4, 9):
        part = list_images(images(pictures, shuffle=shuffle, limit=limit), 3)
        assert part.keys[:] == whole.keys[:limit]
        assert part.labels[:] == whole.labels[:limit]
        assert part.label_names == whole.label_names


def test_classes_can_be_chosen(pictures: Path) -> None:
    listing = list_images(images(pictures, classes=("dogs",)), 0)
    assert len(listing) == 6
    assert {key.split("/")[0] for key in listing.keys} == {"dogs"}
    assert listing.label_names == ("dogs",)
    with pytest.raises(
        ConfigError, match=r"images.classes: .* has no folder wolves\. It has: \., broken, cats, dogs\."
    ):
        list_images(images(pictures, classes=("dogs", "wolves")), 0)


def test_a_missing_and_an_empty_folder_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        list_images(images(tmp_path / "nowhere"), 0)
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "--set images.source=FOLDER" in str(caught.value)
    with pytest.raises(ConfigError, match=r"holds no picture\. Expected files ending in \.avif, \.bmp, \.gif"):
        list_images(images(tmp_path), 0)


def test_a_listing_is_kept_and_its_digest_sees_every_change(pictures: Path, tmp_path: Path) -> None:
    listing = list_images(images(pictures), 0)
    listing.save(tmp_path / "listing.parquet")
    again = Listing.load(tmp_path / "listing.parquet")
    assert again.table.equals(listing.table)
    assert (again.source, again.kind, again.label_names) == (str(pictures), "folder", listing.label_names)
    assert again.digest == listing.digest
    digests = [listing.digest]
    for name, kind in (("image", pa.string()), ("label", pa.int32()), ("size", pa.int64())):
        values = listing.table[name].to_pylist()
        values[0], values[1] = values[1], values[0]
        column = listing.table.schema.get_field_index(name)
        changed = listing.table.set_column(column, listing.table.field(name), pa.array(values, kind))
        digests.append(Listing(changed, source=listing.source, label_names=listing.label_names).digest)
    digests.append(Listing(listing.table, source=listing.source, label_names=("a", "b", "c")).digest)
    digests.append(Listing(listing.table.slice(1), source=listing.source, label_names=listing.label_names).digest)
    assert len(set(digests)) == 6 - (listing.labels[0] == listing.labels[1])
    moved = Listing(listing.table, source="/elsewhere", label_names=listing.label_names)
    assert moved.digest == listing.digest  # a moved folder is the same pictures
