"""Neurons as pictures, into a folder: a dozen side by side, and one large enough for a slide.

python scripts/neurons.py --out atlas/docs/pictures
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from atlas.networks.network import load
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
LARGE = ("_blocks.10", 51, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    network = load(NETWORK)
    pictures = [neuron(network, layer, unit, size=SIZE) for layer, units in NEURONS.items() for unit in units]
    rows = -(-len(pictures) // ACROSS)
    sheet = np.full((rows * (SIZE + GAP) - GAP, ACROSS * (SIZE + GAP) - GAP, 3), 255, dtype=np.uint8)
    for number, pixels in enumerate(pictures):
        top, left = (number // ACROSS) * (SIZE + GAP), (number % ACROSS) * (SIZE + GAP)
        sheet[top : top + SIZE, left : left + SIZE] = pixels
    layer, unit, size = LARGE
    options.out.mkdir(parents=True, exist_ok=True)
    for name, pixels in (("neurons.webp", sheet), ("neuron-512.webp", neuron(network, layer, unit, size=size))):
        Image.fromarray(pixels).save(options.out / name, quality=90)
        print(f"{options.out / name}: {pixels.shape[1]}×{pixels.shape[0]}")


if __name__ == "__main__":
    main()
