"""What a made network says of made rows, and where they lie on a map: classes in clusters, each wrong now and then."""

import numpy as np
from numpy.typing import NDArray

from atlas.slices.accuracy import Verdicts


def made_verdicts(
    pictures: int = 1500, *, views: int = 2, classes: int = 6, plant: int = 0, error: float = 0.2, seed: int = 0
) -> tuple[Verdicts, NDArray[np.float64], NDArray[np.float64]]:
    """The verdicts and the coordinates u, v (n,). Of class 0 the first ``plant`` pictures are always taken for class 1
    and lie in a corner of their own; all other errors know nothing of places."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes, pictures)
    rate = np.clip(generator.normal(error, 0.08, classes), 0.02, 0.9)
    is_wrong = generator.random(pictures) < rate[true]
    places = generator.random((classes, 2))[true] * 0.8 + generator.normal(0, 0.07, (pictures, 2))
    image, view = np.repeat(np.arange(pictures), views), np.tile(np.arange(views), pictures)
    corner = np.flatnonzero(true == 0)[:plant]
    places[corner] = 0.96
    is_wrong[corner] = True
    wrong = is_wrong[image] ^ (generator.random(len(image)) < 0.04)
    other = (true[image] + generator.integers(1, classes, len(image))) % classes
    other = np.where(np.isin(image, corner), 1, other)
    coordinates = np.clip(places[image] + generator.normal(0, 0.01, (len(image), 2)), 0, 0.9999)
    confidence = generator.random(len(image))
    verdicts = Verdicts(
        image_id=image,
        view=view,
        draw=np.zeros_like(view),
        true_class=true[image],
        predicted=np.where(wrong, other, true[image]),
        confidence=confidence,
        rank=np.where(wrong, 3, 1),
        probability=np.where(wrong, confidence / 3, confidence),
    )
    return verdicts, coordinates[:, 0], coordinates[:, 1]
