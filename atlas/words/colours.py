"""Colours by name: OKLab, and the eleven basic colour terms as measured ranges of it.

OKLab (Björn Ottosson 2020, "A perceptual color space for image processing") is a space in which equal distances look
about equal: lightness, 0 to 1, and two axes of colour. The terms are the eleven that a language has for all colours
(Berlin & Kay 1969, "Basic Color Terms"). Their ranges were measured on the 558 colours of the XKCD colour survey
(Randall Munroe 2010) whose name ends in one of them: 91 % get that term, and most of the others have a name of
two, such as "brown grey".
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32, Pixels

TERMS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
COLOURS = (
    *(f"share of {term}" for term in TERMS),
    *(f"lightness of {term}" for term in TERMS),
    *("chroma", "red", "yellow", "variety"),
)
# The first that fits: term, lightness from and below, chroma from and below, hue in degrees from and below.
_RANGES: tuple[tuple[str, float, float, float, float, float, float], ...] = (
    ("black", 0, 0.15, 0, 0.07, 0, 360),
    ("black", 0, 0.22, 0, 0.05, 0, 360),
    ("black", 0, 0.27, 0, 0.03, 0, 360),
    ("white", 0.92, 9, 0, 0.03, 0, 360),
    ("white", 0.97, 9, 0, 0.036, 0, 360),
    ("grey", 0, 0.35, 0, 0.022, 0, 360),
    ("grey", 0.35, 9, 0, 0.03, 0, 360),
    ("grey", 0.35, 0.9, 0, 0.04, 112, 360),
    # Roses.
    ("pink", 0.6, 9, 0, 9, 0, 12),
    ("pink", 0.54, 9, 0.16, 9, 0, 12),
    ("purple", 0, 9, 0, 0.1, 0, 12),
    ("red", 0, 9, 0, 9, 0, 12),
    # Reds: light ones are pink, dull ones brown.
    ("pink", 0.68, 9, 0, 9, 12, 34),
    ("red", 0, 9, 0.135, 9, 12, 38),
    ("red", 0, 0.42, 0.1, 9, 12, 38),
    ("pink", 0.6, 9, 0, 9, 12, 34),
    ("brown", 0, 0.6, 0, 9, 12, 38),
    # Oranges: dark ones are brown, pale ones pink or yellow.
    ("pink", 0.85, 9, 0, 0.09, 34, 55),
    ("yellow", 0.85, 9, 0, 0.09, 55, 80),
    ("orange", 0.58, 9, 0.125, 9, 34, 80),
    ("brown", 0, 9, 0, 9, 34, 80),
    # Yellows: dark ones are brown or, near green, olive.
    ("yellow", 0.86, 9, 0, 9, 80, 112),
    ("yellow", 0.73, 9, 0.11, 9, 80, 112),
    ("green", 0, 0.73, 0.06, 9, 102, 112),
    ("brown", 0, 9, 0, 9, 80, 112),
    ("yellow", 0.9, 9, 0, 9, 112, 125),
    ("green", 0, 9, 0, 9, 112, 184),
    ("blue", 0, 9, 0, 9, 184, 285),
    ("purple", 0, 9, 0, 9, 285, 325),
    ("pink", 0.62, 9, 0, 9, 325, 360),
    ("purple", 0, 9, 0, 9, 325, 360),
)
# Below and from which lightness a colour is called dark or light: between the survey's "dark" or "light" ones and the
# term alone. Dark orange and dark yellow are brown, and light red is pink.
DARK = {"red": 0.45, "green": 0.5, "blue": 0.42, "purple": 0.38, "brown": 0.33, "grey": 0.47}
LIGHT = {"green": 0.84, "blue": 0.75, "purple": 0.69, "pink": 0.83, "brown": 0.63, "grey": 0.77}
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Bits of each channel by which a pixel's colour is looked up.
_BITS = 6


def oklab(colours: Pixels) -> Float32:
    """Lightness, 0 to 1, and the axes green to red and blue to yellow, about −0.4 to 0.4: float32 (..., 3) of sRGB
    ``colours``, uint8 (..., 3)."""
    encoded = np.arange(256) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    lab: Float32 = (np.cbrt(linear[colours] @ _TO_CONES.T) @ _TO_LAB.T).astype(np.float32)
    return lab


def term_of(colours: Pixels) -> NDArray[np.uint8]:
    """Which of ``TERMS`` each of ``colours``, uint8 (..., 3), is called by: uint8 (...)."""
    lightness, red, yellow = np.moveaxis(oklab(colours), -1, 0)
    chroma, hue = np.hypot(red, yellow), np.degrees(np.arctan2(yellow, red)) % 360
    term = np.full(lightness.shape, len(TERMS), np.uint8)
    for name, *limits in _RANGES:
        fits = term == len(TERMS)
        for values, lowest, end in zip((lightness, chroma, hue), limits[::2], limits[1::2]):
            fits &= (values >= lowest) & (values < end)
        term[fits] = TERMS.index(name)
    return term


def colour_features(patches: Pixels, weight: Float32) -> Float32:
    """What colours ``patches``, uint8 (n, side, side, 3), have, each pixel counted by ``weight`` (side, side), which
    sums to one: float32 (n, 26), by ``COLOURS``.

    - the share of each term, and the mean lightness of its pixels, 0 to 1;
    - chroma: how colourful the pixels are in the mean, 0 to about 0.35;
    - red and yellow: the mean colour as a vector from green to red and from blue to yellow, whose angle is the hue;
    - variety: the standard deviation of that vector.
    """
    lab, terms = _tables()
    codes = patches >> (8 - _BITS)
    codes = (codes[..., 0].astype(np.int32) << 2 * _BITS) | (codes[..., 1].astype(np.int32) << _BITS) | codes[..., 2]
    count = len(patches)
    colours = lab[codes]
    where = (terms[codes] + np.arange(count)[:, None, None] * len(TERMS)).ravel()
    weights = np.broadcast_to(weight, codes.shape)
    shares = np.bincount(where, weights.ravel(), count * len(TERMS)).reshape(count, -1)
    lightness = np.bincount(where, (weights * colours[..., 0]).ravel(), count * len(TERMS)).reshape(count, -1)
    square = colours[..., 1] ** 2 + colours[..., 2] ** 2
    chroma, squares = (np.einsum("nyx,yx->n", values, weight) for values in (np.sqrt(square), square))
    mean = np.einsum("nyxc,yx->nc", colours[..., 1:], weight)
    variety = np.sqrt(np.maximum(squares - (mean**2).sum(1), 0))
    lightness_of_terms = lightness / np.maximum(shares, 1e-9)
    return np.concatenate([shares, lightness_of_terms, np.stack([chroma, *mean.T, variety], 1)], 1).astype(np.float32)


@cache
def _tables() -> tuple[Float32, NDArray[np.uint8]]:
    """OKLab and term of every colour of ``_BITS`` bits a channel, by its code."""
    codes = np.arange(1 << _BITS)
    # Bits repeated, so that black and white stay what they are.
    levels: Pixels = ((codes << (8 - _BITS)) | (codes >> (2 * _BITS - 8))).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    return oklab(colours), term_of(colours)
