"""What the tests of one picture share: pictures to give, and the explainer of the tiny run."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atlas.explain.explainer import Explainer, Picture
from atlas.rundir.directory import RunDirectory


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def photo(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Coloured blobs, uint8 (height, width, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def explainer(undisturbed: RunDirectory, workshop: Path) -> Iterator[Explainer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(workshop)
        yield Explainer(undisturbed.path)


@pytest.fixture(scope="session")
def picture(explainer: Explainer) -> Picture:
    return explainer.look(encoded(photo(1)))
