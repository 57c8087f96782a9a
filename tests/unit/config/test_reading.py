"""The YAML: what is accepted, and what each mistake is answered with."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas.config.model import Config
from atlas.config.reading import config_folders, find_config, load_config, validate
from atlas.config.sections import LayoutConfig, Section
from atlas.errors import ConfigError

MINIMAL = {"network": {"name": "efficientnet_lite0"}, "layers": ["_blocks.4"], "images": {"source": "pictures/"}}


def write(folder: Path, name: str = "mine.yaml", **changes: Any) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(MINIMAL | changes))
    return str(path)


def mistakes(folder: Path, overrides: list[str] | None = None, **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, **changes), overrides)
    return str(caught.value).splitlines()


def test_three_keys_are_enough_and_the_rest_has_the_documented_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    assert config.plain() == {
        "out": "runs/mine",
        "out_options": {},
        "seed": 0,
        "network": {
            "name": "efficientnet_lite0", "checkpoint": None, "classes": None, "size": None, "mean": None, "std": None
        },
        "layers": ["_blocks.4"],
        "images": {
            "source": "pictures/", "kind": "auto", "storage_options": {}, "image_column": None, "label_column": None,
            "limit": None, "crops": 1, "crop_scale": [0.4, 1.0], "shuffle": True, "classes": None,
        },
        "collect": {
            "positions_per_image": 1, "attributions": True, "rows_per_shard": 65536, "max_failure_share": 0.05,
            "precision": "auto", "batch": "auto",
        },
        "layout": {
            "backend": "auto", "neighbors": 20, "min_dist": 0.01, "fit_rows": 1000000, "align": True,
            "deterministic": False, "axes": "umap", "shared": False, "class_atlas": [], "class_pair": [],
            "class_rows": 5000, "class_by": "attribution", "class_layers": None, "class_grids": [8, 16],
        },
        "cells": {"grids": [10, 20, 40], "min_count": 8, "exemplars": 6, "diverse_exemplars": 3},
        "render": {
            "size": 80,
            "steps": "auto",
            "power": 16.0,
            "ridge": 0.001,
            "precision": "auto",
            "compile": False,
            "batch": "auto",
            "icons_per_item": 64,
        },
        "cluster": {
            "kind": "local", "address": None, "workers": None, "adaptive": None, "threads": 1, "retries": 2,
            "memory": None, "gpu": False, "queue": None, "account": None, "walltime": None, "workers_per_job": 1,
            "interface": None, "directives": [], "prologue": [], "image": None, "namespace": None, "volumes": {},
            "pod": {},
        },
        "neurons": None,
        "publish": {"opens": None},
        "tracking": None,
        "tour": "tour",
        "compare": {},
    }  # fmt: skip


def test_plain_values_come_back_as_the_same_configuration(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, cells={"grids": [5, 10]}, render={"steps": 12}))
    assert Config.from_plain(config.plain()) == config
    assert config.cells.grids == (5, 10)
    assert config.render.steps == 12


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        config.images.crops = 3  # type: ignore[misc]


def test_an_address_to_write_to_has_no_slash_behind_it_and_is_no_web_server(tmp_path: Path) -> None:
    assert load_config(write(tmp_path), ["out=s3://bucket/runs/demo/"]).out == "s3://bucket/runs/demo"
    with pytest.raises(
        ConfigError, match=r"out: given \"https://host/x\"; a web server takes no files; expected a folder"
    ):
        load_config(write(tmp_path), ["out=https://host/x"])


@pytest.mark.parametrize("out", ["s3://", "s3://b/..", "s3://b/a?x=1"])
def test_an_address_ends_in_the_runs_name(tmp_path: Path, out: str) -> None:
    with pytest.raises(ConfigError, match="expected an address that ends in the run's name"):
        load_config(write(tmp_path), [f"out={out}"])


def test_units_are_asked_for_of_the_runs_layers(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["neurons={layers: [_blocks.4]}"])
    assert config.neurons is not None
    assert config.neurons.model_dump() == {"layers": ("_blocks.4",), "pictures": 4, "patches": 9, "sources": 12}
    for value, expected in (
        ("{layers: []}", "  neurons.layers: given []; list should have at least 1 item after validation, not 0."),
        ("{}", "  neurons.layers: missing; it has no default and must be given."),
        ("{layers: [_blocks.4, _blocks.4]}",
         '  neurons.layers: given ["_blocks.4", "_blocks.4"]; expected each layer once.'),
        ("{layers: [_blocks.5]}",
         "  neurons.layers names '_blocks.5', which is not among the layers; they are _blocks.4; change one of them."),
        ("{layers: [_blocks.4], picture: 2}", "  neurons.picture: unknown key; did you mean pictures?"),
        ("{layers: [_blocks.4], patches: 0}",
         "  neurons.patches: given 0; input should be greater than or equal to 1."),
    ):  # fmt: skip
        assert mistakes(tmp_path, [f"neurons={value}"])[1:] == [expected], value


def test_several_sources_and_classes_that_are_numbers(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    config = load_config(write(tmp_path), ["images.source=[a, b]", "images.classes=[0, 1]"])
    assert config.images.source == ("a", "b")
    assert config.images.classes == ("0", "1")
    assert config.plain()["images"]["source"] == ["a", "b"]
    assert not recwarn.list


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
        "  layers: given []; list should have at least 1 item after validation, not 0.",
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
            "render.qqqqqq: unknown key; known keys here: size, steps, power, ridge, precision, compile, batch, "
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
            "crops, crop_scale, shuffle, classes.",
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
        ({"out": None}, "out: given null; input should be a valid string."),
    ],
)
def test_each_mistake_names_the_key_what_was_given_and_what_is_expected(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    assert mistakes(tmp_path, **changes) == [f"{tmp_path / 'mine.yaml'} has 1 mistake:", f"  {expected}"]


@pytest.mark.parametrize("grids", [[10, 30], [10, 10], [20, 10], [10, 20, 41], [10, 40]])
def test_grids_that_do_not_double_are_refused(tmp_path: Path, grids: list[int]) -> None:
    assert mistakes(tmp_path, cells={"grids": grids})[1].endswith("expected grids that double, such as [10, 20, 40].")


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
        (b"- a\n- b\n", "holds list, expected keys such as network, layers and images."),
        (b"", "holds NoneType, expected keys such as network, layers and images."),
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


def test_a_run_opens_on_its_middle_layer_or_on_one_that_is_named(tmp_path: Path) -> None:
    layers = "layers=[_blocks.4, _blocks.7, _blocks.10]"
    assert load_config(write(tmp_path), [layers]).opening == "_blocks.7"
    assert load_config(write(tmp_path), [layers, "publish.opens=_blocks.10"]).opening == "_blocks.10"
    with pytest.raises(ConfigError, match=r"publish\.opens names '_blocks.9', which is not among the layers"):
        load_config(write(tmp_path), [layers, "publish.opens=_blocks.9"])


def test_the_reference_names_every_key_with_its_default() -> None:
    path = find_config("reference")
    given = yaml.safe_load(path.read_text())
    defaults = load_config(str(path)).plain()
    for section, values in defaults.items():
        if isinstance(values, dict):
            assert set(given[section]) == set(values), section
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


def test_every_key_has_a_description_that_ends_as_a_sentence() -> None:
    sections = [Section, *Section.__subclasses__()]
    assert {Config, LayoutConfig} < set(sections)
    for section in sections:
        for key, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{key}"
            assert field.description.endswith("."), f"{section.__name__}.{key}: {field.description}"
