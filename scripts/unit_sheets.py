"""Contact sheets of a run's units, to look at and judge: the most pose-invariant, the most selective, three circuits.

python scripts/unit_sheets.py runs/demo --layer _blocks.10 --out atlas/docs/pictures

Reads the finished site. units-invariant.webp and units-selective.webp: a line for each unit with the picture that it
would most like to see, its strongest real patches, the first of them turned in steps of 45°, and its tuning curve.
circuits.webp: three units, by default those that the strongest circuits lead to, with the units that build them; struck
through are those that do so when their activation is below 0.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atlas.explain.overlays import OPPOSE, SUPPORT

SIDE, GAP, MARGIN = 72, 6, 12
PATCHES, TURNS, SOURCES = 5, 8, 6
# Of circuits: how surely a source's effect has its sign, and how far weights and data agree.
RELIABLE, AGREEING = 0.7, 0.3
INK, SOFT, GROUND = (28, 29, 31), (110, 112, 116), (255, 255, 255)


class Units:
    """The units of one layer as a finished site shows them."""

    def __init__(self, site: Path, layer: str) -> None:
        self.folder = site / "neurons" / layer
        if not (self.folder / "units.json").is_file():
            sys.exit(f"{site} shows no units of {layer}. Run with --set 'neurons={{layers: [{layer}]}}' first.")
        self.table: dict[str, Any] = json.loads((self.folder / "units.json").read_text(encoding="utf-8"))

    def facts(self, unit: int) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / f"unit-{unit:04d}.json").read_text(encoding="utf-8"))
        return facts

    def sprites(self, unit: int) -> dict[str, list[Image.Image]]:
        """The sprites of a unit's sheet by the name of their line, and the ``pictures`` made for it."""
        facts = self.facts(unit)
        with Image.open(self.folder / f"unit-{unit:04d}-pictures.webp") as image:
            side, pixels = image.height, image.convert("RGB")
        boxes = [(number * side, 0, (number + 1) * side, side) for number in range(facts["pictures"])]
        lines = {"pictures": [pixels.crop(box) for box in boxes]}
        side = facts["sprite"]
        with Image.open(self.folder / f"unit-{unit:04d}.webp") as sheet:
            pixels = sheet.convert("RGB")
        for line, (name, count) in enumerate((name, count) for name, count in facts["rows"].items() if count):
            boxes = [(number * side, line * side, (number + 1) * side, (line + 1) * side) for number in range(count)]
            lines[name] = [pixels.crop(box) for box in boxes]
        return lines

    def ranked(self, figure: str) -> list[int]:
        """Units that have a figure, the largest first."""
        values = self.table[figure]
        return sorted((unit for unit, value in enumerate(values) if value is not None), key=lambda unit: -values[unit])


def lines_sheet(units: Units, unit_numbers: list[int], figure: str) -> Image.Image:
    """A line for each of ``unit_numbers``: picture, patches, the first patch turned, the tuning curve, the figure."""
    columns = 1 + PATCHES + TURNS
    width = MARGIN * 2 + columns * (SIDE + GAP) + 2 * GAP + 150 + 110
    sheet = Image.new("RGB", (width, MARGIN * 2 + 20 + len(unit_numbers) * (SIDE + GAP)), GROUND)
    draw = ImageDraw.Draw(sheet)
    heads = {0: "it would like", 1: "strongest real patches", 1 + PATCHES: "the first of them, turned by 45° each time"}
    for column, text in heads.items():
        draw.text((_left(column), MARGIN), text, INK, _font(12))
    draw.text((_left(columns), MARGIN), "answer by angle", INK, _font(12))
    for line, unit in enumerate(unit_numbers):
        top = MARGIN + 20 + line * (SIDE + GAP)
        sprites, facts = units.sprites(unit), units.facts(unit)
        pictures = [
            sprites["pictures"][0],
            *_padded(sprites["top"], PATCHES),
            *sprites["rotated"][:: 24 // TURNS][:TURNS],
        ]
        for column, picture in enumerate(pictures):
            if picture is not None:
                sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (_left(column), top))
        _curve(draw, facts["tuning"]["response"], _left(columns), top)
        draw.text((_left(columns) + 160, top + 16), f"unit {unit}", INK, _font(14))
        draw.text((_left(columns) + 160, top + 38), f"{figure} {units.table[figure][unit]:.2f}", SOFT, _font(12))
    return sheet


def circuits_sheet(site: Path, units: Units, unit_numbers: list[int]) -> Image.Image:
    """A block for each of ``unit_numbers``: the unit, what builds it and what speaks against it, with kernels and
    effects."""
    height = 2 * (SIDE + 40) + 30
    width = MARGIN * 2 + 190 + SOURCES * (SIDE * 2 + GAP * 3) + 90
    sheet = Image.new("RGB", (width, MARGIN * 2 + len(unit_numbers) * height), GROUND)
    draw = ImageDraw.Draw(sheet)
    for block, unit in enumerate(unit_numbers):
        top = MARGIN + block * height
        circuit = nearest_circuit(units, unit)
        earlier = Units(site, circuit["layer"])
        picture = units.sprites(unit)["pictures"][0].resize((150, 150), Image.Resampling.LANCZOS)
        sheet.paste(picture, (MARGIN, top + 22))
        draw.text((MARGIN, top), f"{units.table['layer']}, unit {unit}", INK, _font(14))
        draw.text((MARGIN, top + 176), f"weights and data agree: {circuit['agreement'] or 0:.2f}", SOFT, _font(12))
        for line, (sign, word, colour) in enumerate(((1, "built from", SUPPORT), (-1, "against it", OPPOSE))):
            y = top + line * (SIDE + 40)
            draw.text((MARGIN + 180, y), f"{word}, units of {circuit['layer']}", colour, _font(12))
            sources = [source for source in circuit["sources"] if sign * source["effect"] > 0][:SOURCES]
            for number, source in enumerate(sources):
                x = MARGIN + 180 + number * (SIDE * 2 + GAP * 3)
                icon = earlier.sprites(source["unit"])["pictures"][0]
                sheet.paste(icon.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y + 18))
                sheet.paste(kernel_picture(source["kernel"], circuit["kernel"]), (x + SIDE + 3, y + 18))
                label = f"{source['unit']}: {source['effect']:+.2f}"
                if by_absence(source):
                    draw.line((x, y + 18 + SIDE, x + SIDE, y + 18), GROUND, 5)
                    draw.line((x, y + 18 + SIDE, x + SIDE, y + 18), INK, 2)
                    label = f"not {label}"
                draw.text((x, y + 20 + SIDE), label, INK, _font(12))
    return sheet


def nearest_circuit(units: Units, unit: int) -> dict[str, Any]:
    """A unit's circuit in the nearest earlier layer."""
    circuits: list[dict[str, Any]] = units.facts(unit)["circuit"]
    if not circuits:
        sys.exit(f"{units.table['layer']} has no earlier layer among neurons.layers. Add one.")
    return circuits[0]


def best_circuits(units: Units, count: int) -> list[int]:
    """The units of which three sources that are there do most of what is done, among those that weights and data agree
    on."""

    def share(unit: int) -> float:
        if units.table["never_active"][unit]:
            return 0.0
        circuit = nearest_circuit(units, unit)
        sure = [source for source in circuit["sources"] if source["reliability"] > RELIABLE and not by_absence(source)]
        effects = [abs(source["effect"]) for source in sure]
        total = sum(abs(source["effect"]) for source in circuit["sources"])
        return sum(effects[:3]) / total if total and (circuit["agreement"] or 0) > AGREEING else 0.0

    return sorted(range(units.table["units"]), key=lambda unit: -share(unit))[:count]


def by_absence(source: dict[str, Any]) -> bool:
    """Whether a source does what it does mainly where its activation is below 0, where its picture is not seen."""
    return bool(abs(source["effect_above_zero"]) < abs(source["effect"] - source["effect_above_zero"]))


def kernel_picture(kernel: list[float], shape: list[int]) -> Image.Image:
    """A kernel as a square: orange builds, blue speaks against, white does nothing."""
    values = np.array(kernel, float).reshape(shape)
    shares = (values / max(np.abs(values).max(), 1e-12))[..., None]
    white, plus, minus = (np.array(colour, float) for colour in (GROUND, SUPPORT, OPPOSE))
    pixels = np.where(shares > 0, white + shares * (plus - white), white - shares * (minus - white))
    return Image.fromarray(pixels.round().astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _curve(draw: ImageDraw.ImageDraw, response: list[float], left: int, top: int) -> None:
    """Bars of the response by angle, 0° to 345°."""
    peak = max(max(response), 1e-12)
    for number, value in enumerate(response):
        high = max(value, 0) / peak * (SIDE - 2)
        x = left + number * 6
        draw.rectangle((x, top + SIDE - high, x + 4, top + SIDE), SOFT)


def _padded(pictures: list[Image.Image], count: int) -> list[Image.Image | None]:
    return [*pictures[:count], *[None] * max(0, count - len(pictures))]


def _left(column: int) -> int:
    return MARGIN + column * (SIDE + GAP) + GAP * (column > 0) + GAP * (column > PATCHES)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run with neurons")
    parser.add_argument("--layer", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10, help="units on each of the two sheets (10)")
    parser.add_argument("--circuits", type=int, nargs="+", help="units whose circuits are shown")
    options = parser.parse_args()
    site = options.run / "site"
    units = Units(site, options.layer)
    options.out.mkdir(parents=True, exist_ok=True)
    sheets = {
        "units-invariant": lines_sheet(units, units.ranked("invariance")[: options.count], "invariance"),
        "units-selective": lines_sheet(units, units.ranked("selectivity")[: options.count], "selectivity"),
        "circuits": circuits_sheet(site, units, options.circuits or best_circuits(units, 3)),
    }
    for name, sheet in sheets.items():
        sheet.save(options.out / f"{name}.webp", quality=86)
        print(f"{options.out / name}.webp: {sheet.width}×{sheet.height}")


if __name__ == "__main__":
    main()
