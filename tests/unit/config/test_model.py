"""The configuration as one value: what must agree between its sections, and what it knows of itself."""

from pathlib import Path
from typing import Any

import pytest
from made_config import MINIMAL, mistakes, write

from atlas.config.model import Config
from atlas.config.reading import load_config, validate
from atlas.errors import ConfigError


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
    assert config.neurons.model_dump() == {
        "layers": ("_blocks.4",),
        "pictures": 4,
        "patches": 9,
        "rotated_patches": 6,
        "sources": 12,
    }
    for value, expected in (
        ("{layers: []}", "  neurons.layers: given []; expected at least 1."),
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


def test_a_run_opens_on_its_middle_layer_or_on_one_that_is_named(tmp_path: Path) -> None:
    layers = "layers=[_blocks.4, _blocks.7, _blocks.10]"
    assert load_config(write(tmp_path), [layers]).opening == "_blocks.7"
    assert load_config(write(tmp_path), [layers, "publish.opens=_blocks.10"]).opening == "_blocks.10"
    with pytest.raises(ConfigError, match=r"publish\.opens names '_blocks.9', which is not among the layers"):
        load_config(write(tmp_path), [layers, "publish.opens=_blocks.9"])


def config(**changes: Any) -> Config:
    return validate({"out": "x", **MINIMAL, **changes}, "the test")


def test_layers_belong_to_the_network_behind_their_sign() -> None:
    assert Config.module_of("features.8@old") == ("old", "features.8")
    assert Config.module_of("features.8") == ("", "features.8")
    two = config(layers=["a", "b@old", "c"], compare={"old": {"name": "torchvision/resnet18"}})
    assert {name: network.settings.name for name, network in two.networks().items()} == {
        "": "efficientnet_lite0", "old": "torchvision/resnet18"
    }  # fmt: skip
    assert two.layers_of("") == ("a", "c")
    assert two.layers_of("old") == ("b@old",)
    assert two.opening == "c", "the middle one of the first network's"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"layers": ["a@old"], "compare": {"old": {"name": "n"}}},
            "layers: none is of network; give one without an @ sign",
        ),
        ({"layers": ["a", "b@new"]}, "layers: b@new is of the network 'new', which is not under compare"),
        (
            {"compare": {"old": {"name": "n"}}},
            "compare.old is given, but none of the layers is of it, such as LAYER@old",
        ),
        ({"layers": ["a", "a"]}, "expected each layer once"),
        ({"layout": {"class_layers": ["b"]}}, "layout.class_layers names 'b', which is not among the layers"),
        (
            {"layout": {"class_pair": ["a", "b"]}, "collect": {"attributions": False}},
            "layout.class_pair goes by attributions",
        ),
        (
            {"layout": {"axes": "classes"}, "collect": {"attributions": False}},
            "layout.axes: classes goes by attributions",
        ),
    ],
)
def test_sections_agree(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert sentence in str(caught.value)


def test_a_tour_of_ones_own_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config(tour="mine.yaml").tour == str(tmp_path / "mine.yaml")
    assert config().tour == "tour"
    assert config(tour=None).tour is None
