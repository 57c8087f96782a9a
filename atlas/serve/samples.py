"""Sample pictures for someone who has none at hand: a few of the run's own, of classes as different as can be."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from atlas.analysis import Run
from atlas.errors import AtlasError
from atlas.pictures.decode import PictureError, open_picture
from atlas.pictures.listing import Listing

COUNT = 12
# Rows of the store that are looked at, and the longest side of a sample in pixels.
_ROWS, _SIDE = 4096, 640


@dataclass(frozen=True)
class Sample:
    """One picture: ``title``, what the network takes it for, and ``png``, the bytes of its file."""

    title: str
    png: bytes


def find_samples(path: Path) -> list[Sample]:
    """Up to ``COUNT`` pictures of the run at ``path``, one of each class, those first that the network is surest of;
    fewer, or none, where they cannot be read any more. Raises AtlasError where the run is not finished."""
    run = Run(path)
    store = run.store(run.layers[0])
    rows = store.sample(min(_ROWS, len(store)), columns=["image_id", "predicted", "confidence"])
    order = np.argsort(-rows["confidence"], kind="stable")
    _, first = np.unique(rows["predicted"][order], return_index=True)
    listing = Listing.load(run.listing)
    samples: list[Sample] = []
    for row in order[np.sort(first)]:
        if len(samples) == COUNT:
            break
        try:
            picture = open_picture(listing.read(int(rows["image_id"][row])))
        except PictureError:
            continue
        except AtlasError:  # the source is out of reach
            break
        image = Image.fromarray(picture)
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        file = BytesIO()
        image.save(file, "PNG")
        samples.append(Sample(store.classes[int(rows["predicted"][row])].split(",")[0], file.getvalue()))
    return samples
