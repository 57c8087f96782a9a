"""How JPEGs are best decoded: by which decoder, and how far at a reduced scale.

Decoders: pictures a second on one thread, by CPU time, and the difference of their pixels to Pillow's. Spare: views are
cut from photos decoded whole and at 1/2 to 1/8, and what the layers of a network answer is compared by its cosine,
for views that are at the reduced scale so many times as wide as the network's input. The photos are those that
scikit-image and scikit-learn carry, as JPEGs of quality 90.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
import simplejpeg
import torch
from bench_rows import BenchRow  # beside this file
from PIL import Image
from sample_photos import photos  # beside this file
from torchvision.io import decode_jpeg

from atlas.arrays import Pixels
from atlas.networks.network import Network, load
from atlas.pictures.decode import Encoded
from atlas.pictures.views import Box, crop_view

QUALITY = 90
SIZES = {"500 × 375": (500, 375), "4000 × 3000": (4000, 3000)}
# A view of this side, for the decoders that can stop at a reduced scale.
VIEW_SIDE = 336
LAYERS = ("_blocks.4", "_blocks.10", "_blocks.14")
SPARES = ((1.0, 1.5), (1.5, 2.0), (2.0, 2.5), (2.5, 3.0), (3.0, 4.0))
VIEWS = 40  # of each photo
INPUT = 64  # of the network: photos are many times as wide


def bench_decode(repeat: int) -> list[BenchRow]:
    """Rows of the bench ``decode``, medians of ``repeat`` rounds each, and of the bench ``spare``."""
    torch.set_num_threads(1)
    originals = list(photos().values())
    rows = measure_decoders(originals, repeat)
    return rows + measure_spare(originals, load("efficientnet_lite0", size=INPUT, device="cpu"))


def jpeg(pixels: Pixels, size: tuple[int, int] | None = None) -> bytes:
    """The photo as JPEG, brought to ``size`` (width, height) if given."""
    picture = Image.fromarray(pixels)
    file = BytesIO()
    (picture.resize(size, Image.Resampling.LANCZOS) if size else picture).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


# Decoders: bytes → uint8 (h, w, 3)


def pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(BytesIO(data)))


def pillow_draft(data: bytes) -> Pixels:
    picture = Image.open(BytesIO(data))
    picture.draft("RGB", (VIEW_SIDE, VIEW_SIDE))
    return np.asarray(picture)


def torchvision(data: bytes) -> Pixels:
    pixels: Pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()
    return pixels


def simple(data: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data)
    return pixels


def simple_quick(data: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    return pixels


def our_decoder(data: bytes) -> Pixels:
    return Encoded(data).decode()


def ours_reduced(data: bytes) -> Pixels:
    encoded = Encoded(data)
    reductions = (reduction for reduction in encoded.reductions if min(encoded.size or ()) >= reduction * VIEW_SIDE)
    return encoded.decode(next(reductions, 1))


DECODERS: dict[str, Callable[[bytes], Pixels]] = {
    "Pillow": pillow,
    "Pillow, draft": pillow_draft,
    "torchvision": torchvision,
    "simplejpeg": simple,
    "simplejpeg, quick and inexact": simple_quick,
    "atlas.pictures.decode": our_decoder,
    "atlas.pictures.decode, reduced": ours_reduced,
}


def measure_decoders(originals: Sequence[Pixels], repeats: int) -> list[BenchRow]:
    """Pictures a second of CPU time (median of ``repeats``), and the difference to Pillow's pixels in grey levels."""
    rows = []
    for size_name, size in SIZES.items():
        files = [jpeg(pixels, size) for pixels in originals]
        for name, decode in DECODERS.items():
            rates = []
            for _ in range(repeats):
                started = time.process_time()
                for data in files:
                    decode(data)
                rates.append(len(files) / (time.process_time() - started))
            apart = [_difference(pillow(data), decode(data)) for data in files]
            differences = [difference for difference in apart if difference is not None]
            rows.append(
                {
                    "bench": "decode",
                    "system": name,
                    "size": size_name,
                    "images_per_second": round(statistics.median(rates), 1),
                    "most": max((largest for largest, _ in differences), default=None),
                    "mean": round(statistics.mean(mean for _, mean in differences), 3) if differences else None,
                }
            )
    return rows


def _difference(expected: Pixels, pixels: Pixels) -> tuple[int, float] | None:
    if expected.shape != pixels.shape:
        return None
    apart = np.abs(expected.astype(np.int16) - pixels)
    return int(apart.max()), float(apart.mean())


# Spare


def measure_spare(originals: Sequence[Pixels], network: Network) -> list[BenchRow]:
    """Cosines of activations between views of whole and of reduced pictures, by how much wider than the network's input
    the views are at the reduced scale."""
    generator = np.random.default_rng(0)
    cosines: dict[tuple[tuple[float, float], str], list[float]] = {}
    for pixels in originals:
        data = jpeg(pixels)
        decoded = {reduction: Encoded(data).decode(reduction) for reduction in (1, 2, 4, 8)}
        for spare in SPARES:
            whole, reduced = [], []
            for _ in range(VIEWS):
                reduction = int(generator.choice((2, 4, 8)))
                side = round(generator.uniform(*spare) * network.size) * reduction
                box = _square(generator, side, pixels.shape[:2], reduction)
                if box is not None:
                    whole.append(crop_view(decoded[1], box, network.size, (0, 0, 0)))
                    reduced.append(crop_view(decoded[reduction], box, network.size, (0, 0, 0), reduction))
            if whole:
                for layer, values in _answers_apart(network, whole, reduced).items():
                    cosines.setdefault((spare, layer), []).extend(values)
    return [
        {
            "bench": "spare",
            "spare": list(spare),
            "layer": layer,
            "views": len(values),
            "median_cosine": round(float(np.median(values)), 5),
            "lowest_cosine_of_95": round(float(np.quantile(values, 0.05)), 5),
        }
        for (spare, layer), values in cosines.items()
    ]


def _square(generator: np.random.Generator, side: int, shape: tuple[int, ...], step: int) -> Box | None:
    if side > min(shape):
        return None
    top, left = (int(generator.integers(0, (length - side) // step + 1)) * step for length in shape)
    return float(left), float(top), float(left + side), float(top + side)


def _answers_apart(network: Network, whole: list[Pixels], reduced: list[Pixels]) -> dict[str, list[float]]:
    """The cosine of each pair of views' activations at the middle of the map, layer by layer."""
    cosines = {}
    with torch.no_grad():
        for layer in LAYERS:
            maps = [
                network.activations(network.from_bytes(torch.from_numpy(np.stack(views))), layer)
                for views in (whole, reduced)
            ]
            first, second = (
                activations[:, :, activations.shape[2] // 2, activations.shape[3] // 2] for activations in maps
            )
            cosines[layer] = torch.nn.functional.cosine_similarity(first, second).tolist()
    return cosines
