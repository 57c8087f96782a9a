"""A made site with neurons: three layers, of which each builds the next, and figures with known answers."""

import colorsys
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from made_site import CLASSES, GRIDS, is_drawn, is_there
from numpy.typing import NDArray
from PIL import Image, ImageDraw

EARLIEST, EARLIER, LATER = "_blocks.2", "_blocks.4", "_blocks.10"
UNITS = {EARLIEST: 6, EARLIER: 12, LATER: 40}
ICON, ACROSS, SPRITE, PICTURE, PICTURES = 64, 16, 96, 128, 4
DEGREES = list(range(0, 360, 15))
SCALES = [0.5, 0.71, 1, 1.41, 2]
# Of the later layer: the unit that answers to all angles alike, the one that answers to one, and one that never fires.
INVARIANT, ORIENTED, SILENT = 7, 3, 5
NOTE = "Unit 5 of _blocks.10 never answers above 0 in these pictures, so there is nothing to turn."
FAR = "What lies so far apart is told by the data alone."
ROWS = {"top": 9, "whole": 9, "spread": 8, "rotated": 24, "mirrored": 24, "scaled": 5}
# The cell of the later map whose sources are known: grid, row, column, weight, overlap.
BUILT_CELL = (20, 14, 12)
BUILT_FROM = [[20, 5, 5, 1, 0.4], [20, 14, 12, 0.5, 0.31], [20, 10, 3, -0.6, 0.02]]


def unit_colour(layer: str, unit: int) -> tuple[int, int, int]:
    """The colour of a unit's pictures: its hue tells the unit, its brightness the layer."""
    value = {EARLIEST: 0.95, EARLIER: 0.75, LATER: 0.55}[layer]
    red, green, blue = colorsys.hsv_to_rgb(unit / UNITS[layer], 0.7, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def add_units(site: Path) -> None:
    """Give a made site its units, and a third layer that is like the earlier one."""
    shutil.copytree(site / EARLIER, site / EARLIEST)
    facts = json.loads((site / "atlas.json").read_text())
    first = next(entry for entry in facts["layers"] if entry["path"] == EARLIER)
    facts["layers"] = [first | dict.fromkeys(("name", "path", "layer"), EARLIEST), *facts["layers"]]
    order = list(UNITS)
    facts["neurons"] = {
        "layers": [
            {"layer": layer, "path": f"neurons/{layer}", "units": units, "earlier": order[: order.index(layer)],
             "icon": ICON, "across": ACROSS}
            for layer, units in UNITS.items()
        ]
    }  # fmt: skip
    (site / "atlas.json").write_text(json.dumps(facts))
    for layer, units in UNITS.items():
        folder = site / "neurons" / layer
        folder.mkdir(parents=True)
        icons = np.zeros((ICON * -(-units // ACROSS), ICON * ACROSS, 4), np.uint8)
        for unit in range(units):
            line, column = divmod(unit, ACROSS)
            square = icons[ICON * line : ICON * (line + 1), ICON * column : ICON * (column + 1)]
            square[...] = (*unit_colour(layer, unit), 255)
            unit_json = unit_facts(layer, unit)
            (folder / f"unit-{unit:04d}.json").write_text(json.dumps(unit_json))
            if any(unit_json["rows"].values()):
                Image.fromarray(unit_sheet(layer, unit)).save(folder / f"unit-{unit:04d}.webp", quality=90)
            image = Image.fromarray(unit_pictures(layer, unit))
            image.save(folder / f"unit-{unit:04d}-pictures.webp", quality=90)
        Image.fromarray(icons).save(folder / "icons.webp", lossless=True)
        (folder / "units.json").write_text(json.dumps(unit_table(layer)))
        (folder / "classes.bin").write_bytes(classes_file(layer))
        for grid in GRIDS:
            cells = json.loads((site / layer / f"grid-{grid:03d}" / "cells.json").read_text())
            (site / layer / f"grid-{grid:03d}" / "units-000.bin").write_bytes(unit_heat(cells, units))
            if earlier_of(layer):
                row, col = (at * grid // 20 for at in BUILT_CELL[1:])
                cells_built = {f"{row}.{col}": BUILT_FROM} if layer == LATER else {}
                built_json = {"source_map": earlier_of(layer)[-1], "grid": grid, "cells": cells_built}
                (site / layer / f"grid-{grid:03d}" / "built.json").write_text(json.dumps(built_json))
    assert all(is_there(20, row, col) and is_drawn(20, row, col) for _, row, col, *_ in BUILT_FROM)


def unit_heat(cells: dict[str, Any], units: int) -> bytes:
    """Even units answer in the east and are below 0 in the west, odd ones the other way round."""
    x = 2 * (np.array(cells["col"]) + 0.5) / cells["grid"] - 1
    return (128 + np.rint(127 * np.array([x if unit % 2 == 0 else -x for unit in range(units)]))).astype("u1").tobytes()


def is_silent(layer: str, unit: int) -> bool:
    return (layer, unit) == (LATER, SILENT)


def invariance(layer: str, unit: int) -> float | None:
    if is_silent(layer, unit):
        return None
    return {INVARIANT: 0.93, ORIENTED: 0.52}.get(unit, round(0.55 + 0.005 * unit, 3))


def selectivity(layer: str, unit: int) -> float | None:
    """Odd units have none, but for the oriented one."""
    if is_silent(layer, unit) or (unit % 2 and unit not in (INVARIANT, ORIENTED)):
        return None
    return {INVARIANT: 0.02, ORIENTED: 0.47}.get(unit, round(0.3 - 0.005 * unit, 3))


def unit_table(layer: str) -> dict[str, Any]:
    numbers = range(UNITS[layer])
    return {
        "layer": layer,
        "units": UNITS[layer],
        "largest": [0.0 if is_silent(layer, unit) else 4 + (unit * 7 % UNITS[layer]) / 4 for unit in numbers],
        "mean": [0.1] * UNITS[layer],
        "active_share": [0.0 if is_silent(layer, unit) else 0.5 / (1 + unit) for unit in numbers],
        "never_active": [int(is_silent(layer, unit)) for unit in numbers],
        "selectivity": [selectivity(layer, unit) for unit in numbers],
        "invariance": [invariance(layer, unit) for unit in numbers],
        "classes": [classes_of(layer, unit)[0][:5] for unit in numbers],
        "correlated": [correlated_with(layer, unit) for unit in numbers],
    }


def correlated_with(layer: str, unit: int) -> list[list[float]]:
    return [[(unit + step) % UNITS[layer], round(0.9 - 0.1 * step, 2)] for step in (1, 2, 3)]


def classes_of(layer: str, unit: int) -> tuple[list[list[float]], list[list[float]]]:
    """Supported and opposed classes: units 2, 7 and 20 speak for espresso (class 3), 20 most."""
    if is_silent(layer, unit):
        return [], []
    espresso = {2: 0.4, 7: 0.62, 20: 0.8}.get(unit)
    supports = [[1, 0.3], [2, 0.2]] if espresso is None else [[3, espresso], [1, 0.1]]
    return supports, [[4, -0.25], [5, -0.1]]


def effects_on(layer: str, index: int) -> list[float]:
    """What each unit of a layer does for a class."""
    effects_by_class = [
        {int(number): value for entries in classes_of(layer, unit) for number, value in entries}
        for unit in range(UNITS[layer])
    ]
    return [effects.get(index, 0.0) for effects in effects_by_class]


def classes_file(layer: str) -> bytes:
    effects = np.array([effects_on(layer, index) for index in range(len(CLASSES))], np.float32)
    scale = np.abs(effects).max(1)
    steps = 128 + np.rint(127 * effects / np.where(scale > 0, scale, 1)[:, None])
    return scale.astype("<f4").tobytes() + steps.astype("u1").tobytes()


def response(unit: int, turned: float) -> float:
    """All angles alike, one angle alone (90°), or between."""
    if unit == INVARIANT:
        return 6 + 0.4 * float(np.cos(np.radians(turned)))
    sharp = 8 if unit == ORIENTED else 1.5
    return 6 * float(np.exp(sharp * (np.cos(np.radians(turned - 90)) - 1)))


def patch(image: int, activation: float) -> dict[str, Any]:
    return {"image": f"animals/{image}.png", "activation": activation, "frame": [0.25, 0.5, 0.5, 0.75], "label": 0,
            "predicted": 1, "confidence": 0.7}  # fmt: skip


def unit_facts(layer: str, unit: int) -> dict[str, Any]:
    silent = is_silent(layer, unit)
    supports, opposes = classes_of(layer, unit)
    counts = [round(4000 * float(np.exp(-bin_ / 6))) for bin_ in range(64)]
    turned = [response(unit, angle) for angle in DEGREES]
    return {
        "unit": unit,
        "layer": layer,
        "pictures": PICTURES,
        "sprite": SPRITE,
        "rows": {name: 0 if silent else rows for name, rows in ROWS.items()},
        "histogram": {"low": -1.0, "high": 0.0 if silent else 7.0, "counts": counts},
        "top": [] if silent else [patch(number, 7 - 0.1 * number) for number in range(9)],
        "spread": [] if silent else [{**patch(20 + number, number - 1), "share": number / 7} for number in range(8)],
        "supports": supports,
        "opposes": opposes,
        "tuning": None
        if silent
        else {
            "degrees": DEGREES,
            "response": turned,
            "per_patch": [[max(0, value * (0.8 + 0.1 * which) - which / 3) for value in turned] for which in range(4)],
            "mirrored": [response(unit, -angle) for angle in DEGREES],
            "scales": SCALES,
            "scaled": [1.0, 3.0, 6.0, 4.0, -0.5],
            "selectivity": selectivity(layer, unit),
            "invariance": invariance(layer, unit),
            "preferred_angle": 90.0,
            "largest_response": max(turned),
        },
        "note": NOTE if silent else None,
        "circuit": [] if silent else [circuit_of(layer, earlier) for earlier in earlier_of(layer)],
    }


def earlier_of(layer: str) -> list[str]:
    return list(UNITS)[: list(UNITS).index(layer)]


def kernel_at(row: int, col: int, value: float) -> list[float]:
    """A kernel of 5 × 5 with its weight around one place."""
    y, x = np.mgrid[0:5, 0:5]
    return [round(float(weight), 4) for weight in (value * np.exp(-((y - row) ** 2 + (x - col) ** 2))).ravel()]


def circuit_of(layer: str, earlier: str) -> dict[str, Any]:
    """Unit 1 builds from above, unit 2 inhibits from below, unit 3 builds from the left when it is below 0, unit 4
    hardly counts."""
    far = (layer, earlier) == (LATER, EARLIEST)
    present = {1: 0.7, 2: -0.4, 3: -0.1, 4: 0.02}
    sources = [(1, 0.8, 0.3, (0, 2)), (2, -0.5, -0.6, (4, 2)), (3, 0.3, 0.2, (2, 0)), (4, 0.02, -0.02, (2, 2))]
    return {
        "layer": earlier,
        "agreement": 0.11 if far else 0.91,
        "nonlinearities": ["12 ReLU6", "1 max-pooling as average"] if far else ["4 ReLU6"],
        "note": FAR if far else None,
        "kernel": [5, 5],
        "sources": [
            {"unit": unit, "weight": weight, "linear_weight": 2 * weight, "effect": effect,
             "effect_above_zero": present[unit], "kernel": kernel_at(*place, weight), "reliability": 0.9}
            for unit, effect, weight, place in sources
        ],
    }  # fmt: skip


def unit_sheet(layer: str, unit: int) -> NDArray[np.uint8]:
    """A line for each kind of picture: red patches and blue wholes; greens from dark to bright;
    arrows that point to where they are turned."""
    rows = unit_facts(layer, unit)["rows"]
    lines = {name: count for name, count in rows.items() if count}
    sheet = Image.new("RGBA", (SPRITE * max([1, *lines.values()]), SPRITE * max(1, len(lines))))
    for line, (name, count) in enumerate(lines.items()):
        for column in range(count):
            sprite = made_sprite(name, column, unit_colour(layer, unit))
            sheet.paste(sprite, (SPRITE * column, SPRITE * line))
    return np.asarray(sheet)


def unit_pictures(layer: str, unit: int) -> NDArray[np.uint8]:
    """The pictures made for a unit, side by side: its colour, each a little darker than the one before."""
    colours = np.array([unit_colour(layer, unit)]) * (10 - np.arange(PICTURES))[:, None] // 10
    return np.repeat(np.repeat(colours[None].astype(np.uint8), PICTURE, 0), PICTURE, 1)


def made_sprite(name: str, column: int, colour: tuple[int, int, int]) -> Image.Image:
    shades = {
        "top": (200 - 8 * column, 30, 30),
        "whole": (30, 30, 200 - 8 * column),
        "spread": (30, 60 + 20 * column, 30),
    }
    sprite = Image.new("RGB", (SPRITE, SPRITE), shades.get(name, (120, 120, 120)))
    if name in shades:
        return sprite
    draw = ImageDraw.Draw(sprite)
    turn = np.radians(DEGREES[column] if name != "scaled" else 0)
    size = 40 if name != "scaled" else 18 * SCALES[column]

    def at(along: float, aside: float) -> tuple[float, float]:
        return (
            SPRITE / 2 + size * float(along * np.sin(turn) + aside * np.cos(turn)),
            SPRITE / 2 - size * float(along * np.cos(turn) - aside * np.sin(turn)),
        )

    draw.polygon([at(1, 0), at(-0.6, 0.6), at(-0.3, 0), at(-0.6, -0.6)], fill=colour)
    return sprite
