"""The YAML: what is accepted, and what each mistake is answered with."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from made_config import MINIMAL, mistakes, write

from atlas.config.reading import config_folders, find_config, load_config, validate
from atlas.errors import ConfigError


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    lines = mistakes(
        tmp_path,
        network={"name": ""},
        layers=[],
        images={"sorce": "pictures/", "crops": 0},
        colect={},
        cells={"grids": [10, 30]},
        seed=-1,
    )
    assert lines[0] == f"{tmp_path / 'mine.yaml'} has 8 mistakes:"
    assert lines[1:] == [
        "  seed: given -1; input should be greater than or equal to 0.",
        '  network.name: given ""; string should have at least 1 character.',
        "  layers: given []; expected at least 1.",
        "  images.source: missing; it has no default and must be given.",
        "  images.crops: given 0; input should be greater than or equal to 1.",
        "  images.sorce: unknown key; did you mean source?",
        "  cells.grids: given [10, 30]; expected grids that double, such as [10, 20, 40].",
        "  colect: unknown key; did you mean collect?",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"render": {"qqqqqq": 1}},
            "render.qqqqqq: unknown key; known keys here: size, steps, quick_steps, power, ridge, precision, compile, "
            "batch, "
            "icons_per_item.",
        ),
        ({"images": {"source": "x", "limits": 3}}, "images.limits: unknown key; did you mean limit?"),
        (
            {"render": {"steps": -1}},
            "render.steps: given -1; input should be 'auto', or input should be greater than or equal to 1.",
        ),
        (
            {"images": "x"},
            'images: given "x"; expected keys: source, kind, storage_options, image_column, label_column, limit, '
            "crops, crop_scale, shuffle, classes, label_classes.",
        ),
        ({"layers": "conv1"}, 'layers: given "conv1"; input should be a list.'),
        ({"layers": ["a", ""]}, 'layers.1: given ""; string should have at least 1 character.'),
        ({"layers": ["a", "b", "a"]}, 'layers: given ["a", "b", "a"]; expected each layer once.'),
        (
            {"images": {"source": "x", "crop_scale": [0.9, 0.2]}},
            "images.crop_scale: given [0.9, 0.2]; expected the smaller share first.",
        ),
        (
            {"images": {"source": "x", "crop_scale": [0.9, 2]}},
            "images.crop_scale.1: given 2; input should be less than or equal to 1.",
        ),
        (
            {"images": {"source": "x", "kind": "zip"}},
            "images.kind: given \"zip\"; input should be 'auto', 'folder', 'tar' or 'parquet'.",
        ),
        (
            {"cluster": {"kind": "address"}},
            'cluster: given {"kind": "address"}; kind: address needs an address, such as tcp://scheduler:8786.',
        ),
        (
            {"cluster": {"address": "tcp://a:1"}},
            'cluster: given {"address": "tcp://a:1"}; an address is given, but kind is local; expected kind: address.',
        ),
        ({"render": {"size": 81}}, "render.size: given 81; input should be a multiple of 2."),
        ({"out": None}, "out: given null; expected a text."),
    ],
)
def test_each_mistake_names_the_key_what_was_given_and_what_is_expected(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    assert mistakes(tmp_path, **changes) == [f"{tmp_path / 'mine.yaml'} has 1 mistake:", f"  {expected}"]


def test_missing_sections_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        validate({"out": "x"}, "a.yaml")
    for key in ("network", "layers", "images"):
        assert f"  {key}: missing; it has no default and must be given." in str(caught.value).splitlines()


def test_overrides_are_yaml_and_reach_every_depth(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, collect=None),
        ["images.limit=100", "cells.grids=[4, 8]", "seed=3", "collect.attributions=false", "out=elsewhere/x=y"],
    )
    assert config.images.limit == 100
    assert config.images.source == "pictures/"
    assert config.cells.grids == (4, 8)
    assert config.seed == 3
    assert config.collect.attributions is False
    assert config.out == "elsewhere/x=y"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("images.limit", "--set images.limit: expected key=value, such as --set images.limit=100."),
        ("=3", "--set =3: expected key=value, such as --set images.limit=100."),
        ("seed.deep=1", "--set seed.deep=1: seed is 4 and has no keys of its own."),
        ("cells.grids=[4, 8", "--set cells.grids=[4, 8: the value is not valid YAML"),
    ],
)
def test_a_wrong_override_is_explained(tmp_path: Path, override: str, expected: str) -> None:
    assert mistakes(tmp_path, [override], seed=4)[0].startswith(expected)


def test_an_override_of_an_unknown_key_gets_the_nearest_one(tmp_path: Path) -> None:
    assert "  images.limt: unknown key; did you mean limit?" in mistakes(tmp_path, ["images.limt=3"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"layers: [a\nimages: x", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"- a\n- b\n", "odd.yaml holds a list; expected keys such as network, layers and images."),
        (b"", "odd.yaml is empty; expected keys such as network, layers and images."),
    ],
)
def test_a_file_that_is_no_configuration_is_explained(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert str(caught.value).startswith(f"{path} ")
    assert expected in str(caught.value)


def test_shipped_configurations_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("demo") == find_config("configs/demo.yaml") == config_folders()[0] / "demo.yaml"
    config = load_config("demo")
    assert config.out == "runs/demo"
    assert config.network.name == "efficientnet_lite0"
    (tmp_path / "demo").write_text(yaml.safe_dump(MINIMAL))  # a file of that name comes first
    assert find_config("demo") == Path("demo")


def test_every_shipped_configuration_is_valid() -> None:
    names = {file.stem for folder in config_folders() for file in folder.glob("*.yaml")} - {"tour"}  # no run
    assert {"demo", "imagenet", "reference"} <= names
    for name in names:
        assert load_config(name).layers


def test_the_reference_names_every_key_with_its_default() -> None:
    path = find_config("reference")
    reference = yaml.safe_load(path.read_text())
    defaults = load_config(str(path)).plain()
    for section, values in defaults.items():
        if isinstance(values, dict):
            assert set(reference[section]) == set(values), section
    plain = validate(MINIMAL | {"out": "x"}, "x").plain()
    for section in ("collect", "layout", "cells", "render", "cluster"):
        assert defaults[section] == plain[section]


def test_an_unknown_configuration_gets_the_near_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_config("dem")
    message = str(caught.value)
    assert message.startswith("There is no configuration dem. Expected a YAML file, or one of the shipped ones: ")
    assert message.endswith("Did you mean demo?")
    with pytest.raises(ConfigError, match=r"There is no configuration .*/nowhere/demo\.yaml"):
        find_config(str(tmp_path / "nowhere" / "demo.yaml"))
