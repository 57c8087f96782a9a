"""What pattern a patch has: its orientation, its scale, and how its light lies.

Orientation is the structure tensor's: the direction in which lightness changes most, and how much more it changes
there than across (coherence); Bigün & Granlund 1987, "Optimal orientation detection of linear symmetry". The scale is
the peak of the power spectrum; pictures have about the power 1/f² at every frequency f (Field 1987, "Relations between
the statistics of natural images and the response properties of cortical cells"), which is taken out first.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32, Float64, Pixels

TEXTURE = (
    *("lightness", "contrast", "coherence", "cosine", "sine", "polarity", "right", "down"),
    *("spread", "frequency", "peak", "fine", "middle"),
)
# A band of the spectrum is a bell of this standard deviation, and the next one stands so far from it, in octaves.
_WIDTH, _STEP = 0.25, 0.2
# The middle ends, and what is around it begins, at this share of the way to the edges.
_MIDDLE = 0.35
# Fine is what has so many cycles a side or more.
_FINE = 8


@cache
def disc(side: int) -> Float32:
    """The weight of each pixel of a patch, float32 (side, side), which sums to one: level in the middle, and falling to
    nothing from half the way to the edges."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    ramp = np.clip(2 - 2 * np.hypot(axis[:, None], axis), 0, 1)
    weight = np.sin(np.pi / 2 * ramp) ** 2
    return (weight / weight.sum()).astype(np.float32)


def texture_features(patches: Pixels) -> Float32:
    """What pattern ``patches``, uint8 (n, side, side, 3), have in their middle: float32 (n, 13), by ``TEXTURE``.

    - lightness, its mean, 0 to 1 (OKLab's, of a grey of the same luminance), and contrast, its standard deviation;
    - coherence, 0 to 1, and the doubled angle of the lines' direction as cosine and sine, coherence long: (1, 0)
      horizontal, (−1, 0) vertical, (0, 1) falling to the right, (0, −1) rising to the right;
    - polarity, 0 to 1: whether light changes one way (an edge: 1) or there and back (a line, stripes: 0);
    - right and down: how much lighter it is there than on the other side, in lightness;
    - spread, 0 to 1: over how much of the patch the pattern reaches;
    - frequency of the spectrum's peak, in cycles a side, and how much higher it is than the mean. The pattern's
      wavelength is the side, in pixels of the picture that the patch is cropped from, divided by it;
    - fine: the contrast of what is smaller than an eighth of the side;
    - middle: how much lighter the middle is than the rest, in lightness.
    """
    light = _lightness(patches)
    side = light.shape[1]
    weight = disc(side)
    mean = np.einsum("nyx,yx->n", light, weight)
    light = light - mean[:, None, None]
    contrast = np.sqrt(np.einsum("nyx,nyx,yx->n", light, light, weight))
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    right, down = (_difference(light, weight * np.sign(part)) for part in (axis[None, :], axis[:, None]))
    middle = _difference(light, weight * np.sign(_MIDDLE - np.hypot(axis[:, None], axis)))
    coherence, cosine, sine, polarity, spread = _structure(light, weight)
    frequency, peak, fine = _spectrum(light, weight)
    features = (mean, contrast, coherence, cosine, sine, polarity, right, down, spread, frequency, peak, fine, middle)
    return np.stack(features, 1).astype(np.float32)


def _lightness(patches: Pixels) -> Float32:
    """The cube root of luminance, float32 (n, side, side): of greys OKLab's lightness."""
    encoded = np.arange(256) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    red, green, blue = ((share * linear).astype(np.float32) for share in (0.2126, 0.7152, 0.0722))
    return np.cbrt(red[patches[..., 0]] + green[patches[..., 1]] + blue[patches[..., 2]])


def _difference(light: Float32, weight: NDArray[np.floating]) -> Float32:
    """Mean lightness (n,) where ``weight`` is positive less that where it is negative."""
    positive, negative = np.maximum(weight, 0), np.maximum(-weight, 0)
    balance = (positive / positive.sum() - negative / negative.sum()).astype(np.float32)
    return np.einsum("nyx,yx->n", light, balance)


def _structure(light: Float32, weight: Float32) -> tuple[Float32, ...]:
    """Coherence, doubled angle of the lines (cosine, sine), polarity and spread of each patch, (n,)."""
    weight = weight[1:-1, 1:-1] / weight[1:-1, 1:-1].sum()
    right = (light[:, 1:-1, 2:] - light[:, 1:-1, :-2]) / 2
    down = (light[:, 2:, 1:-1] - light[:, :-2, 1:-1]) / 2

    def mean(values: NDArray[np.floating]) -> Float32:
        """The mean in each patch, (n,)."""
        return np.einsum("nyx,yx->n", values, weight)

    across, along, mixed = mean(right * right), mean(down * down), mean(right * down)
    energy = across + along + 1e-12
    # Lines run across the direction in which light changes: the doubled angle is turned by 180°.
    cosine, sine = (along - across) / energy, -2 * mixed / energy
    total = mean(np.hypot(right, down)) + 1e-9
    polarity = np.hypot(mean(right), mean(down)) / total
    return np.hypot(cosine, sine), cosine, sine, polarity, total**2 / energy


def _spectrum(light: Float32, weight: Float32) -> tuple[Float32, ...]:
    """The frequency of the peak in cycles a side, its height over the mean of all bands, and the contrast of what is
    smaller than an eighth of the side: (n,) each."""
    side = light.shape[1]
    bands, frequencies, fine, twice = _bands(side)
    power = (np.abs(np.fft.rfft2(light * weight)) ** 2).reshape(len(light), -1)
    whitened = np.sqrt(power @ bands + 1e-12)
    peak = whitened.argmax(1)
    height = whitened.max(1) / whitened.mean(1)
    contrast = np.sqrt(power @ (fine * twice) / (side**2 * (weight**2).sum()))
    return frequencies[peak].astype(np.float32), height.astype(np.float32), contrast.astype(np.float32)


@cache
def _bands(side: int) -> tuple[Float32, Float64, Float32, Float32]:
    """Weights of the spectrum's bins in each band, with f² in them, float32 (bins, bands); the bands' middles in cycles
    a side; which bins are fine; and how often each bin counts, as half of the spectrum is left out: float32 (bins,)."""
    down, right = np.meshgrid(np.fft.fftfreq(side, 1 / side), np.arange(side // 2 + 1), indexing="ij")
    radius = np.hypot(down, right).ravel()
    twice = np.where((right.ravel() > 0) & (right.ravel() * 2 < side), 2, 1)
    octave = np.log2(np.maximum(radius, 1e-3))
    middles = np.arange(np.log2(1.5), np.log2(side / 2) - _WIDTH, _STEP)
    weights = np.exp(-0.5 * ((octave[:, None] - middles) / _WIDTH) ** 2) * twice[:, None]
    bands = weights / weights.sum(0) * radius[:, None] ** 2
    fine = radius >= _FINE
    return bands.astype(np.float32), 2**middles, fine.astype(np.float32), twice.astype(np.float32)
