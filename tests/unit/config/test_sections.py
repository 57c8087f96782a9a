"""The sections: their defaults, their bounds, and what a key may be written as."""

from pathlib import Path

import pytest
from made_config import mistakes, write

from atlas.config.model import Config
from atlas.config.reading import load_config
from atlas.config.sections import LayoutConfig, Section


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


def test_several_sources_and_classes_that_are_numbers(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    config = load_config(write(tmp_path), ["images.source=[a, b]", "images.classes=[0, 1]"])
    assert config.images.source == ("a", "b")
    assert config.images.classes == ("0", "1")
    assert config.plain()["images"]["source"] == ["a", "b"]
    assert not recwarn.list


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
