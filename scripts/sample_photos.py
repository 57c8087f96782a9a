"""Write the photos that scikit-image and scikit-learn carry into a folder: python sample_photos.py FOLDER."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

# Those that lie inside the package; the others would be downloaded.
NAMES = (
    "astronaut",
    "camera",
    "cat",
    "chelsea",
    "coffee",
    "coins",
    "colorwheel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
    "text",
)


def photos() -> dict[str, NDArray[np.uint8]]:
    """The photos by name, uint8 RGB (h, w, 3)."""
    pictures = {}
    for name in NAMES:
        try:
            pictures[name] = getattr(data, name)()
        except Exception:  # some versions carry fewer, and ask for a downloader
            continue
    samples = load_sample_images()
    pictures |= {Path(name).stem: image for name, image in zip(samples.filenames, samples.images, strict=True)}
    return {name: np.asarray(Image.fromarray(np.asarray(pixels)).convert("RGB")) for name, pixels in pictures.items()}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = photos()
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    print(f"{len(pictures)} photos in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
