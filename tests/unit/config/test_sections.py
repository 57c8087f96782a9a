"""The sections: their defaults, their bounds, and what a key may be written as."""

from pathlib import Path

import pytest
from made_config import mistakes, write
from pydantic import ValidationError

from atlas.config.model import Config
from atlas.config.reading import load_config
from atlas.config.sections import (
    ClusterConfig,
    ImagesConfig,
    LayoutConfig,
    NetworkConfig,
    NeuronsConfig,
    Section,
    TrackingConfig,
)


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
            "label_classes": None,
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
            "quick_steps": 32,
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


def test_several_sources_and_classes_that_are_numbers(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    config = load_config(write(tmp_path), ["images.source=[a, b]", "images.classes=[0, 1]"])
    assert config.images.source == ("a", "b")
    assert config.images.classes == ("0", "1")
    assert config.plain()["images"]["source"] == ["a", "b"]
    assert not recwarn.list


def test_labels_are_mapped_by_a_file_or_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(write(tmp_path), ["images.label_classes={0: tabby, dog: 207, sky: null}"])
    assert config.images.label_classes == {"0": "tabby", "dog": 207, "sky": None}
    assert Config.from_plain(config.plain()) == config
    config = load_config(write(tmp_path), ["images.label_classes=classes.csv"])
    assert config.images.label_classes == str(tmp_path / "classes.csv")
    assert load_config(write(tmp_path), ["images.label_classes={}"]).images.label_classes is None
    (mistake,) = mistakes(tmp_path, ["images.label_classes={dog: true}"])[1:]
    assert "expected a class's name or number for each label" in mistake


@pytest.mark.parametrize("grids", [[10, 30], [10, 10], [20, 10], [10, 20, 41], [10, 40]])
def test_grids_that_do_not_double_are_refused(tmp_path: Path, grids: list[int]) -> None:
    assert mistakes(tmp_path, cells={"grids": grids})[1].endswith("expected grids that double, such as [10, 20, 40].")


def test_every_key_has_a_description_that_ends_as_a_sentence() -> None:
    sections = [Section, *Section.__subclasses__()]
    assert {Config, LayoutConfig} < set(sections)
    for section in sections:
        for key, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{key}"
            assert field.description.endswith("."), f"{section.__name__}.{key}: {field.description}"


def test_paths_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers may have been started in another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    network = NetworkConfig(name="n", checkpoint="weights.pt", classes="~/names.txt")
    assert (network.checkpoint, network.classes) == (str(tmp_path / "weights.pt"), "/home/me/names.txt")


@pytest.mark.parametrize(
    ("value", "clock"), [(43_200, "12:00:00"), (3_661, "01:01:01"), ("08:00:00", "08:00:00"), ("1-00:00", "1-00:00")]
)
def test_a_walltime_may_be_written_without_quotes(value: object, clock: str) -> None:
    """YAML reads 12:00:00 as a number to the base 60."""
    section = ClusterConfig.model_validate({"kind": "slurm", "memory": "4GB", "workers": 1, "walltime": value})
    assert section.walltime == clock


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        (["lemon", "lime"], (("lemon", "lime"),)),
        ([["lemon", "lime"], [7, 8]], (("lemon", "lime"), ("7", "8"))),
        ([], ()),
    ],
)
def test_one_pair_may_stand_without_a_list_around_it(value: list[object], pairs: tuple[object, ...]) -> None:
    assert LayoutConfig.model_validate({"class_pair": value}).class_pair == pairs


def test_one_class_may_stand_without_a_list() -> None:
    assert LayoutConfig.model_validate({"class_atlas": "lemon"}).class_atlas == ("lemon",)
    assert LayoutConfig.model_validate({"class_atlas": [7, "lime"]}).class_atlas == ("7", "lime")


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        (LayoutConfig, {"class_pair": ["a", "a"]}, "expected two different classes"),
        (LayoutConfig, {"class_pair": [["a", "b"], ["a", "b"]]}, "expected each once"),
        (LayoutConfig, {"class_pair": [["a", "b"], ["c"]]}, "expected two classes, such as [lemon, strawberry]"),
        (LayoutConfig, {"deterministic": True, "backend": "cuml"}, "deterministic: true is of backend: umap"),
        (ImagesConfig, {"source": "p", "crop_scale": [0.9, 0.4]}, "expected the smaller share first"),
        (ImagesConfig, {"source": []}, "expected a path, a URL or a glob, or a list of them"),
        (ImagesConfig, {"source": ["a", ""]}, "expected a path, a URL or a glob, or a list of them"),
        (NeuronsConfig, {"layers": ["a", "a"]}, "expected each layer once"),
        (TrackingConfig, {"kind": "mlflow", "mode": "offline"}, "mode: offline is wandb's"),
        (TrackingConfig, {"kind": "wandb", "address": "http://x"}, "expected kind: mlflow"),
        (ClusterConfig, {"kind": "slurm", "workers": 1}, "kind: slurm needs memory and walltime, such as memory: 4GB"),
        (ClusterConfig, {"kind": "local", "queue": "gpu"}, "queue says nothing to kind: local; it is for slurm"),
        (ClusterConfig, {"address": "tcp://x"}, "an address is given, but kind is local; expected kind: address"),
        (ClusterConfig, {"kind": "address"}, "kind: address needs an address"),
    ],
)  # fmt: skip
def test_keys_of_a_section_agree(section: type[Section], values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        section.model_validate(values)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
def test_jobs_have_a_number_of_workers_or_two_bounds(kind: str) -> None:
    needed = {"memory": "4GB", "walltime": "08:00:00"} if kind == "slurm" else {"image": "x"}
    for workers in ({}, {"workers": 3, "adaptive": [0, 3]}):
        with pytest.raises(ValidationError, match=f"kind: {kind} needs either workers"):
            ClusterConfig.model_validate({"kind": kind, **needed, **workers})
    assert ClusterConfig.model_validate({"kind": kind, **needed, "adaptive": [0, 3]}).adaptive == (0, 3)
    with pytest.raises(ValidationError, match="expected the smaller number of workers first"):
        ClusterConfig.model_validate({"kind": kind, **needed, "adaptive": [3, 2]})
