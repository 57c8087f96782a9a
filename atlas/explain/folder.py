"""What `atlas explain` writes: pictures, explain.json, and a small page that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atlas.arrays import Pixels
from atlas.errors import ConfigError
from atlas.explain.explainer import Explainer, Picture
from atlas.explain.html import page
from atlas.explain.overlays import dotted, icon_grid, masked, overlay
from atlas.explain.plain import group_facts, summary
from atlas.rundir.atomic import atomic, write_json

EXPORT_FORMAT = 1
# Sides in pixels: of what is laid over the picture, and at most of a grid of icons.
_OVERLAY, _GRID = 448, 2240
# The level of the atlas on which places are shown: the finest with at most so many cells a side.
_MOST_CELLS = 20

# Called with a task and the share of it that is done.
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class ExplanationOptions:
    """What to write: for which ``layers`` (none: all), for which ``classes`` by name or number (none: the
    three best), how many ``groups`` (0: none), icons in how many ``steps``, and whether positions are also taken out
    one by one (``without_each``).
    """

    layers: Sequence[str] = ()
    classes: Sequence[str] = ()
    groups: int = 6
    steps: int = 64
    without_each: bool = False


@dataclass
class _OutputFolder:
    """The folder that is written, and the names of the files written into it."""

    path: Path
    files: list[str] = field(default_factory=list)

    def save(self, name: str, pixels: Pixels | Image.Image) -> str:
        """Write a picture as PNG, and return its name."""
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        with atomic(self.path / name) as temporary:
            image.save(temporary, "PNG", optimize=True)
        self.files.append(name)
        return name

    def write(self, name: str, text: str) -> None:
        with atomic(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        self.files.append(name)


def prepare_folder(path: Path) -> None:
    """Make the folder, and remove what an earlier explanation has left in it. Raises ConfigError as `check_folder`
    does, and where it cannot be made."""
    try:
        for name in check_folder(path):
            if (path / name).resolve().is_relative_to(path.resolve()):
                (path / name).unlink(missing_ok=True)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be made ({error.strerror or error}). Give another folder.") from None


def check_folder(path: Path) -> list[str]:
    """What an earlier explanation has left in the folder. Raises ConfigError where ``path`` cannot be the folder of
    one, or holds anything else."""
    try:
        return _earlier_files(path)
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be made ({error.strerror or error}). Give another folder.") from None


def _earlier_files(path: Path) -> list[str]:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path} is a file, expected a folder for what is written. Give another name.")
    earlier = path / "explain.json"
    if earlier.is_file():
        try:
            facts = json.loads(earlier.read_text(encoding="utf-8"))
            files = [str(name) for name in facts["files"]] if facts["made_by"] == "activation-atlas" else None
        except (ValueError, KeyError, TypeError):
            files = None
        if files is None:
            raise ConfigError(f"{earlier} was not written by atlas explain. Give another folder with --out.")
        return [*files, "explain.json"]
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"--out {path} has other things in it. Give a new or an empty folder.")
    return []


def write_explanation(
    explainer: Explainer, picture: Picture, title: str, path: Path, options: ExplanationOptions, on_progress: OnProgress
) -> dict[str, Any]:
    """Write what ``options`` ask for of ``picture`` into the folder ``path``, made by `prepare_folder`; returns
    explain.json. ``on_progress`` is called with the task and the share of it that is done."""
    folder = _OutputFolder(path)
    layer_names = [explainer.layer(name).name for name in dict.fromkeys(options.layers)] or list(explainer.layers)
    classes = {name: _classes(explainer, picture, name, options) for name in explainer.networks}
    facts = summary(picture)
    facts["layers"] = [layer for layer in facts["layers"] if layer["path"] in layer_names]
    for number, (name, network) in enumerate(zip(explainer.networks, facts["networks"])):
        network["picture"] = folder.save("picture.png" if number == 0 else f"picture-{number}.png", picture.view(name))
        for entry in network["classes"]:
            entry["name"] = explainer.networks[name].classes[entry["class"]]
    for layer in facts["layers"]:
        network = explainer.layer(layer["path"]).network
        _layer(explainer, picture, folder, layer, classes[network], options, on_progress)
    facts = {
        "made_by": "activation-atlas",
        "format": EXPORT_FORMAT,
        "title": title,
        "run": str(explainer.run.path),
        **facts,
    }
    folder.write("index.html", page(facts))
    facts["files"] = folder.files
    write_json(path / "explain.json", facts)
    return facts


def _classes(explainer: Explainer, picture: Picture, network: str, options: ExplanationOptions) -> list[int]:
    if options.classes:
        return list(dict.fromkeys(explainer.class_of(name, network) for name in options.classes))
    return [top["class"] for top in picture.top_classes(network, 3)]


def _layer(
    explainer: Explainer,
    picture: Picture,
    folder: _OutputFolder,
    layer: dict[str, Any],
    classes: list[int],
    options: ExplanationOptions,
    on_progress: OnProgress,
) -> None:
    """Add to the facts of ``layer`` what is drawn of it, and draw it."""
    name, rows, cols = layer["path"], layer["rows"], layer["cols"]
    network = explainer.layer(name).network
    view, class_names = picture.view(network), explainer.networks[network].classes
    attributions = picture.attribution(classes, network)
    layer["classes"] = []
    for number in classes:
        effects = attributions[number][name]
        layer["attribution"][str(number)] = np.round(effects.astype(np.float64), 6).reshape(-1).tolist()
        file = folder.save(
            f"{name}/attribution-{_file_name(class_names[number])}.png", overlay(view, effects, side=_OVERLAY)
        )
        layer["classes"].append({"class": number, "name": class_names[number], "attribution": file})
    if options.without_each:
        _without_each(picture, folder, layer, classes, view, on_progress)
    layer["place"] = folder.save(f"{name}/place.png", _place(explainer, layer))
    icons: dict[int, Pixels] = {}
    cosines: list[float | None] = [None] * (rows * cols)
    for icon in picture.icons(name, steps=options.steps):
        icons[icon.number], cosines[icon.number] = icon.pixels, round(icon.cosine, 4)
        on_progress(f"{name}: icons", len(icons) / (rows * cols))
    side = min(explainer.config.render.size, _GRID // max(rows, cols))
    layer["icons"] = folder.save(f"{name}/icons.png", icon_grid(icons, layer["magnitude"], rows, cols, side=side))
    layer["cosine"] = cosines
    if options.groups:
        _groups(explainer, picture, folder, layer, view, options, on_progress)


def _without_each(
    picture: Picture,
    folder: _OutputFolder,
    layer: dict[str, Any],
    classes: list[int],
    view: Pixels,
    on_progress: OnProgress,
) -> None:
    name, rows, cols = layer["path"], layer["rows"], layer["cols"]
    parts: list[NDArray[np.float32]] = []
    for part in picture.without_each(name, classes):
        parts.append(part)
        on_progress(f"{name}: without each position", sum(part.shape[1] for part in parts) / (rows * cols))
    for entry, effects in zip(layer["classes"], np.concatenate(parts, axis=1)):
        entry["without_each"] = np.round(effects.astype(np.float64), 6).tolist()
        entry["removed"] = folder.save(
            f"{name}/without-each-{_file_name(entry['name'])}.png",
            overlay(view, effects.reshape(rows, cols), side=_OVERLAY),
        )


def _groups(
    explainer: Explainer,
    picture: Picture,
    folder: _OutputFolder,
    layer: dict[str, Any],
    view: Pixels,
    options: ExplanationOptions,
    on_progress: OnProgress,
) -> None:
    name, class_names = layer["path"], explainer.networks[explainer.layer(layer["path"]).network].classes
    groups, effects = picture.groups(name, options.groups)
    layer.update(group_facts(picture, name, groups, effects, [entry["class"] for entry in layer["classes"]]))
    for group in layer["groups"]:
        for entry in [*group["supports"], *group["opposes"]]:
            entry["name"] = class_names[entry["class"]]
    for number, group in enumerate(layer["groups"]):
        sheet = masked(view, groups.masks[number], side=_OVERLAY // 2)
        group["picture"] = folder.save(f"{name}/group-{number + 1}.png", sheet)
    for icon in picture.icons(name, groups.directions, steps=options.steps):
        group = layer["groups"][icon.number]
        group["icon"] = folder.save(f"{name}/group-{icon.number + 1}-icon.png", icon.pixels)
        group["cosine"] = round(icon.cosine, 4)
        on_progress(f"{name}: groups", (icon.number + 1) / len(layer["groups"]))


def _place(explainer: Explainer, layer: dict[str, Any]) -> Image.Image:
    """The layer's atlas with a dot for each position."""
    name, run, size = layer["path"], explainer.run, explainer.config.render.size
    grids = [grid for grid in sorted(explainer.config.cells.grids) if grid <= _MOST_CELLS]
    grid = grids[-1] if grids else min(explainer.config.cells.grids)
    icons = run.icons(name, grid)
    if not icons.num_rows:
        return Image.new("RGB", (size * grid, size * grid), (247, 247, 245))
    top, left = min(icons["row"].to_pylist()), min(icons["col"].to_pylist())
    u, v = (np.array([np.nan if value is None else value for value in layer[axis]]) for axis in ("u", "v"))
    x, y = (u * grid - left) * size, (v * grid - top) * size
    return dotted(run.mosaic(name, grid), x, y, layer["magnitude"], radius=size / 5)


def _file_name(name: str) -> str:
    """The name of a class as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.split(",")[0].lower()).strip("-") or "class"
