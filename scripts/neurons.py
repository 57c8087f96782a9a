"""A dozen neurons as one picture: python scripts/neurons.py --out scripts/pictures/neurons.webp"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from atlas.networks import load
from atlas.visualize import neuron

NETWORK = "efficientnet_lite0"
# From early to late: colours and stripes, textures, parts, things.
NEURONS = {
    "_blocks.4": (9, 15, 27),
    "_blocks.7": (24, 43, 49),
    "_blocks.10": (9, 51, 85),
    "_blocks.14": (0, 118, 191),
}
SIZE, GAP, ACROSS = 160, 8, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    network = load(NETWORK)
    pictures = [neuron(network, layer, unit, size=SIZE) for layer, units in NEURONS.items() for unit in units]
    rows = -(-len(pictures) // ACROSS)
    sheet = np.full((rows * (SIZE + GAP) - GAP, ACROSS * (SIZE + GAP) - GAP, 3), 255, dtype=np.uint8)
    for place, pixels in enumerate(pictures):
        top, left = (place // ACROSS) * (SIZE + GAP), (place % ACROSS) * (SIZE + GAP)
        sheet[top : top + SIZE, left : left + SIZE] = pixels
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(options.out, quality=90)
    print(f"{options.out}: {sheet.shape[1]}×{sheet.shape[0]}")


if __name__ == "__main__":
    main()
