"""Shared fixtures: generated pictures of every kind, a small network, small configurations, an S3 server,
and those of the helpers beside it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer
from PIL import Image

# The small network is named in configurations as any user's would be: module:factory.
sys.path.insert(0, str(Path(__file__).parent / "support"))

from containers import packed, s3  # noqa: F401 - fixtures for all
from explained import explainer, picture  # noqa: F401 - fixtures for all
from growing_site import growing  # noqa: F401 - fixtures for all
from loaded_bench import bench  # noqa: F401 - fixtures for all
from loaded_house import house  # noqa: F401 - fixtures for all
from looked_run import looked  # noqa: F401 - fixtures for all
from made_pictures import gradient
from made_run import labelled_copy, labelled_run, made_copy, made_run  # noqa: F401 - fixtures for all
from made_site import address, browser, site, visitor  # noqa: F401 - fixtures for all
from picture_page import image_api, image_server  # noqa: F401 - fixtures for all
from served_run import run_folder, site_client  # noqa: F401 - fixtures for all
from tiny_run import scheduler, tiny, undisturbed, workshop  # noqa: F401 - fixtures for all
from tour_run import tour_run  # noqa: F401 - fixtures for all
from unit_run import unit_run  # noqa: F401 - fixtures for all
from units_page import neurons, neurons_site  # noqa: F401 - fixtures for all
from walking_page import forward_api, forward_server  # noqa: F401 - fixtures for all

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.networks.network import Network, load

torch.set_num_threads(1)  # the networks are so small that threads would only wait for each other


# Whole runs take minutes a module, unit tests seconds: spread over several processes, the short ones fill the end.
FOLDERS = ("runs", "scripts", "docs", "page", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they use, so that the quick ones can be chosen, and put the folders of long ones first."""
    here = Path(__file__).parent
    items.sort(key=lambda item: FOLDERS.index(item.path.relative_to(here).parts[0]))
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        if used & {"undisturbed", "scheduler"}:
            item.add_marker(pytest.mark.whole_run)
        if "browser" in used:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures: two classes, every kind that must be read, and the broken ones in ``broken/``."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("cats", "dogs", "broken"):
        (folder / name).mkdir()
    for number in range(6):
        Image.fromarray(gradient(60 + 9 * number, 48, number)).save(folder / "cats" / f"{number}.png")
    Image.fromarray(gradient(50, 70, 7)).save(folder / "dogs" / "photo.jpg", quality=95)
    Image.fromarray(gradient(50, 40, 8)).save(folder / "dogs" / "photo.webp", lossless=True)
    Image.fromarray(gradient(50, 40, 9)).save(folder / "dogs" / "photo.bmp")
    Image.fromarray(gradient(50, 40, 10)).save(folder / "dogs" / "photo.TIFF")
    Image.fromarray(gradient(50, 40, 11)).convert("P").save(folder / "dogs" / "palette.gif")
    Image.fromarray(gradient(50, 40, 12)[..., 0]).save(folder / "dogs" / "grey.png")
    clear = np.dstack([gradient(64, 64, 13), np.zeros((64, 64), np.uint8)])
    clear[:, :32, 3] = 255  # left half solid, right half clear
    Image.fromarray(clear).save(folder / "transparent.png")
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    palette.paste(1, (0, 0, 20, 40))
    palette.save(folder / "transparent_palette.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    Image.fromarray(gradient(60, 40, 14)).save(folder / "turned.png", exif=exif)
    Image.fromarray((np.arange(48 * 48).reshape(48, 48) * 28).astype(np.uint16)).save(folder / "deep.png")
    broken = folder / "broken"
    (broken / "empty.png").touch()
    (broken / "text.jpg").write_text("this is no picture")
    whole = (folder / "dogs" / "photo.jpg").read_bytes()
    (broken / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(broken / "float.tiff")
    return folder


@pytest.fixture(scope="session")
def values(pictures: Path) -> dict[str, Any]:
    """The plain values of a small configuration."""
    return {
        "out": "unused",
        "network": {"name": "small_network:factory", "size": 32},
        "layers": ["residual", "branches"],
        "images": {"source": str(pictures), "crops": 3, "classes": ["cats", "dogs", "."]},
        "collect": {"positions_per_image": 2, "batch": 5},
        "layout": {"neighbors": 5, "fit_rows": 100},
        "cells": {"grids": [2, 4], "min_count": 1, "exemplars": 3},
    }


@pytest.fixture(scope="session")
def config(values: dict[str, Any]) -> Config:
    return validate(values, "the test")


@pytest.fixture(scope="session")
def small() -> Network:
    return load("small_network:factory", size=32)


@pytest.fixture(scope="session")
def efficientnet() -> Network:
    """The real network with its ImageNet weights. Not to be changed: it serves the whole session."""
    return load("efficientnet_lite0", device="cpu")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on loopback, without buckets; the environment holds its credentials."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    before = {name: os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    os.environ |= dict.fromkeys(before, "testing")
    yield f"http://{host}:{port}"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
