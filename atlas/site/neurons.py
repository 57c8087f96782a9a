"""The site's files of units: a sheet of icons and a table for each layer, a sheet of pictures and the figures of each
unit, heat maps over the cells, and which cells build which."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from atlas.arrays import Pixels
from atlas.cells.crops import Cropper, frame, whole_sprite
from atlas.config.sections import NeuronsConfig
from atlas.neurons.reading import UnitTables
from atlas.neurons.tables import DEGREES, SCALES
from atlas.pictures.listing import Listing
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.site.circuits import cell_circuit_facts, four_digits, unit_circuit_facts
from atlas.site.heat import heat_maps
from atlas.site.tiles import encode_webp
from atlas.store.shards import RowKey, key_of, read_metadata, to_numpy

# Side in pixels of a unit's icon on its layer's sheet, and of a sprite on the sheet of one unit.
ICON, UNIT_SPRITE = 96, 88
# The largest side in pixels at which the pictures of a unit are shown.
PICTURE = 160
# WebP's quality of icons, of pictures, and of colours and alpha on the sheet of one unit: half of it are posed patches,
# on which nobody sees the difference.
ICON_QUALITY, PICTURE_QUALITY, UNIT_SPRITE_QUALITY, ALPHA_QUALITY = 75, 75, 50, 20
# Units that are published together: a picture is decoded once for all of them.
UNITS_AT_ONCE = 64
# Units in one file of heat maps.
UNITS_PER_FILE = 50
# Pixels that a WebP may be high (16,383), with some to spare.
_MAX_HEIGHT = 16_000
# Classes and similar units that the layer's table lists for each unit.
_CLASSES, _SIMILAR = 5, 8
# Classes that a unit supports and opposes, in its own file.
_SUPPORTS, _OPPOSES = 10, 5
# The lines of a unit's sheet that show its first patch in other poses, and the columns that they come from.
_POSES = {"rotated": "rotated_pictures", "mirrored": "mirrored_pictures", "scaled": "scaled_pictures"}


def neuron_layers(neurons: NeuronsConfig | None) -> tuple[str, ...]:
    """The layers whose units are shown one by one."""
    return () if neurons is None else neurons.layers


def parts(run: RunDirectory, layer: str, grids: Sequence[int]) -> list[str]:
    """The names of what is published of a layer's units in one go: the layer's own files, those of some of its units,
    those over each of the ``grids`` of its map."""
    return [
        f"neurons/{layer}/layer",
        *(
            f"neurons/{layer}/units-{first // UNITS_AT_ONCE:05d}"
            for first in range(0, _units(run, layer), UNITS_AT_ONCE)
        ),
        *(f"neurons/{layer}/grid-{grid:03d}" for grid in grids),
    ]


def write_part(run: RunDirectory, listing: Listing, name: str, *, min_count: int, seed: int) -> tuple[list[Path], int]:
    """Write one of the ``parts``; returns its files, and how many rows could not be cropped again. ``min_count``: of
    the rows of drawn cells; ``seed``: the run's."""
    layer, part = name.removeprefix("neurons/").rsplit("/", 1)
    if part == "layer":
        return write_layer(run, layer), 0
    number = int(part.rsplit("-", 1)[1])
    if part.startswith("grid-"):
        return write_heat(run, layer, number, min_count), 0
    units = range(number * UNITS_AT_ONCE, min((number + 1) * UNITS_AT_ONCE, _units(run, layer)))
    return write_units(run, listing, layer, units, seed=seed)


def neuron_facts(run: RunDirectory, published_layers: Sequence[str]) -> dict[str, Any] | None:
    """What atlas.json holds of units; None where those of no layer are published."""
    layers = [
        {
            "layer": layer,
            "path": f"neurons/{layer}",
            "units": (units := _units(run, layer)),
            "earlier": UnitTables(run, layer).earlier()[::-1],
            "icon": ICON,
            "across": icons_across(units),
        }
        for layer in published_layers
    ]
    return {"layers": layers} if layers else None


def write_layer(run: RunDirectory, layer: str) -> list[Path]:
    """The sheet of a layer's icons, each unit's first picture, the table of its units, and where the run has
    attributions their effects on all classes; returns the files.

    classes.bin: the largest |effect| of each class, float32, then uint8 (classes, units): 128 is none, 1 and 255 that
    largest, against the class and for it."""
    tables, target = UnitTables(run, layer), _target(run, layer)
    statistics = tables.statistics()
    units = tables.units(range(len(statistics)), ("unit", "pictures", "supports", "selectivity", "invariance"))
    across = icons_across(len(statistics))
    sheet = np.zeros((ICON * -(-len(statistics) // across), ICON * across, 4), np.uint8)
    for number, unit in enumerate(units):
        if unit["pictures"]:
            _paste(sheet, number // across, number % across, _sprite(unit["pictures"][0], ICON))
    table = {
        "layer": layer,
        "units": len(statistics),
        **{name: [four_digits(row[name]) for row in statistics] for name in ("largest", "mean")},
        "active_share": [four_digits(row["positive"]) for row in statistics],
        "never_active": [int(row["largest"] <= 0) for row in statistics],
        **{name: [four_digits(unit[name]) for unit in units] for name in ("selectivity", "invariance")},
        "classes": [_effects(unit["supports"], _CLASSES) for unit in units],
        "correlated": [
            [[other["unit"], four_digits(other["correlation"])] for other in row["similar"][:_SIMILAR]]
            for row in statistics
        ],
    }
    files = [_write(target / "icons.webp", encode_webp(sheet, ICON_QUALITY)), _write_json(target / "units.json", table)]
    effects = tables.effects()
    if effects is not None:
        steps, scale = heat_maps(effects, np.ones(len(effects), np.bool_))
        files.append(_write(target / "classes.bin", scale.astype("<f4").tobytes() + steps.tobytes()))
    return files


def write_units(run: RunDirectory, listing: Listing, layer: str, units: range, *, seed: int) -> tuple[list[Path], int]:
    """The pictures, the sheet of patches and the figures of each of these units; returns the files, and how many rows
    could not be cropped again."""
    tables = UnitTables(run, layer)
    statistics = tables.statistics(units)
    keys = {key_of(row) for unit in statistics for row in (*unit["top"], *unit["spread"])}
    sprites, failed = _row_sprites(run, listing, layer, keys, seed)
    circuits = unit_circuit_facts(tables, units)
    files: list[Path] = []
    for unit, own in zip(statistics, tables.units(units)):
        path = _target(run, layer) / f"unit-{unit['unit']:04d}"
        top, spread = ([row for row in unit[name] if key_of(row) in sprites] for name in ("top", "spread"))
        lines = {
            "top": [_sprite(sprites[key_of(row)][0], UNIT_SPRITE) for row in top],
            "whole": [_sprite(sprites[key_of(row)][1], UNIT_SPRITE) for row in top],
            "spread": [_sprite(sprites[key_of(row)][0], UNIT_SPRITE) for row in spread],
            **{name: [_sprite(picture, UNIT_SPRITE) for picture in own[column]] for name, column in _POSES.items()},
        }
        span = unit["largest"] - unit["smallest"]
        facts = {
            "unit": unit["unit"],
            "layer": layer,
            "pictures": len(own["pictures"]),
            "sprite": UNIT_SPRITE,
            "rows": {name: len(line) for name, line in lines.items()},
            "histogram": {
                "low": four_digits(unit["low"]),
                "high": four_digits(unit["high"]),
                "counts": unit["histogram"],
            },
            "top": [_row(row, sprites) for row in top],
            "spread": [
                {
                    **_row(row, sprites),
                    "share": four_digits((row["activation"] - unit["smallest"]) / span if span else 0.0),
                }
                for row in spread
            ],
            "supports": _effects(own["supports"], _SUPPORTS),
            "opposes": _effects(own["opposes"], _OPPOSES),
            "tuning": _tuning(own),
            "note": own["note"],
            "circuit": circuits[unit["unit"]],
        }
        pictures = path.with_name(f"{path.name}-pictures.webp")
        side = min(own["size"], PICTURE)
        strip = np.concatenate([_sprite(picture, side) for picture in own["pictures"]], axis=1)
        files += [
            _write(pictures, encode_webp(strip, PICTURE_QUALITY)),
            _write(path.with_suffix(".webp"), encode_webp(_sheet(lines.values()), UNIT_SPRITE_QUALITY, ALPHA_QUALITY)),
            _write_json(path.with_suffix(".json"), facts),
        ]
    return files, failed


def write_heat(run: RunDirectory, layer: str, grid: int, min_count: int) -> list[Path]:
    """The heat maps of a layer's units over one grid of its map, and which cells of the layer before build its cells;
    returns the files."""
    folder = run.site_grid(layer, grid)
    filters = [("grid", "=", grid)]
    table = pq.read_table(run.cells(layer), columns=["count", "mean"], filters=filters)
    files: list[Path] = []
    if table.num_rows:
        maps, _ = heat_maps(to_numpy(table["mean"]), to_numpy(table["count"]) >= min_count)
        for first in range(0, len(maps), UNITS_PER_FILE):
            path = folder / f"units-{first // UNITS_PER_FILE:03d}.bin"
            files.append(_write(path, maps[first : first + UNITS_PER_FILE].tobytes()))
    circuits = cell_circuit_facts(UnitTables(run, layer), grid)
    return [*files, _write_json(folder / "built.json", circuits)] if circuits else files


def _units(run: RunDirectory, layer: str) -> int:
    channels: int = read_metadata(run.shards(layer)[0])["channels"]
    return channels


def _target(run: RunDirectory, layer: str) -> Path:
    return run.folder("publish") / "neurons" / layer


def icons_across(units: int) -> int:
    """Icons side by side on a layer's sheet: 16, or a multiple where the sheet would be too high."""
    return 16 * max(1, -(-units // (16 * (_MAX_HEIGHT // ICON))))


def _row_sprites(
    run: RunDirectory, listing: Listing, layer: str, keys: set[RowKey], seed: int
) -> tuple[dict[RowKey, tuple[Pixels, Pixels, dict[str, Any]]], int]:
    """The patch, the whole picture and the facts of each row; and how many could not be cropped again."""
    cropper = Cropper(run, listing, layer, seed=seed)
    sprites: dict[RowKey, tuple[Pixels, Pixels, dict[str, Any]]] = {}
    failed = 0
    for picture, rows in cropper.pictures(keys):
        if picture is None:
            failed += len(rows)
            continue
        whole = whole_sprite(picture, UNIT_SPRITE)
        for row in rows:
            facts = {
                "image": listing.keys[row.key[0]],
                "frame": frame(picture, cropper.box(row), UNIT_SPRITE),
                **row.facts,
            }
            sprites[row.key] = cropper.patch(picture, row, UNIT_SPRITE), whole, facts
    return sprites, failed


def _row(row: dict[str, Any], sprites: dict[RowKey, tuple[Pixels, Pixels, dict[str, Any]]]) -> dict[str, Any]:
    return {**sprites[key_of(row)][2], "activation": four_digits(row["activation"])}


def _effects(effects: list[dict[str, Any]], count: int) -> list[list[Any]]:
    return [[entry["class"], four_digits(entry["effect"])] for entry in effects[:count]]


def _tuning(unit: dict[str, Any]) -> dict[str, Any] | None:
    """The tuning curves: each patch's own over the angles, and the means of what is above 0."""
    if not unit["rotated"]:
        return None
    rotated = np.array(unit["rotated"], np.float64)
    response, mirrored, scaled = (
        np.maximum(np.array(unit[name], np.float64), 0).mean(0) for name in ("rotated", "mirrored", "scaled")
    )
    return {
        "degrees": list(DEGREES),
        "response": _figures(response),
        "per_patch": [_figures(curve) for curve in rotated],
        "mirrored": _figures(mirrored),
        "scales": list(SCALES),
        "scaled": _figures(scaled),
        **{name: four_digits(unit[name]) for name in ("selectivity", "invariance")},
        "preferred_angle": four_digits(unit["preferred"]),
        "largest_response": four_digits(float(response.max())),
    }


def _figures(values: Iterable[float]) -> list[float | None]:
    return [four_digits(float(value)) for value in values]


def _sprite(picture: bytes | Pixels, side: int) -> Pixels:
    """A picture in a square of ``side`` pixels, uint8 (side, side, 4)."""
    image = Image.open(BytesIO(picture)) if isinstance(picture, bytes) else Image.fromarray(picture)
    if image.size != (side, side):
        image = image.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image.convert("RGBA"))


def _paste(sheet: Pixels, line: int, column: int, sprite: Pixels) -> None:
    side = len(sprite)
    sheet[line * side : (line + 1) * side, column * side : (column + 1) * side] = sprite


def _sheet(lines: Iterable[list[Pixels]]) -> Pixels:
    """Lines of sprites under each other; those without any are left out."""
    filled = [line for line in lines if line]
    sheet = np.zeros((max(1, len(filled)) * UNIT_SPRITE, max([1, *map(len, filled)]) * UNIT_SPRITE, 4), np.uint8)
    for line, sprites in enumerate(filled):
        for column, sprite in enumerate(sprites):
            _paste(sheet, line, column, sprite)
    return sheet


def _write(path: Path, content: bytes) -> Path:
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return path


def _write_json(path: Path, value: dict[str, Any]) -> Path:
    return _write(path, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
