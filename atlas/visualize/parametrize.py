"""Pictures as spectra: the parameters that are optimised.

A picture is parametrised by the coefficients of its Fourier transform in decorrelated colours (Olah, Mordvintsev and
Schubert 2017, lucid). There, neighbouring pixels and colour channels are not correlated, so one step size fits all of
them and high frequencies do not run away as they do in pixels.

    coefficients → × falloff → inverse FFT → colour basis → sigmoid → RGB in [0, 1]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas.arrays import Integers, Pixels
from atlas.visualize.recipe import ATLAS, Recipe

# Square root of the covariance of ImageNet's RGB values (lucid). Columns: light–dark, blue–yellow, magenta–green.
_COLOUR_SQRT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
# Deviation of the first noise, in coefficients.
NOISE = 0.01
# A pixel of 0 or 255 has no finite inverse sigmoid: it is read as if it lay this far inside.
_MARGIN = 1 / 255
# The number of steps that the recipe's gain is meant for.
_USUAL_STEPS = 160
_TINY = 1e-12


@dataclass(frozen=True)
class Fourier:
    """The parametrisation of square RGB pictures of ``size`` pixels by coefficients (n, 3, size, size // 2 + 1, 2).

    ``falloff`` (size, size // 2 + 1, 1) weights the frequencies, ``colour`` (3, 3) takes decorrelated to RGB. With
    ``phase_only`` the coefficients' magnitudes do not count.
    """

    size: int
    falloff: Tensor
    colour: Tensor
    phase_only: bool = False

    @classmethod
    def make(
        cls,
        size: int,
        recipe: Recipe = ATLAS,
        *,
        steps: int = _USUAL_STEPS,
        device: torch.device | str = "cpu",
    ) -> Fourier:
        """For pictures of ``size`` pixels that are optimised in ``steps`` steps, with the constants on ``device``."""
        frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
        falloff = (
            np.maximum(frequency * size, 1) ** -recipe.decay
        )  # the mean colour weighs as much as the lowest frequency
        # Scaled so that a step of the optimiser moves a pixel equally far whatever the decay and the size.
        falloff *= recipe.gain * (_USUAL_STEPS / steps) ** (1 / 3) * size / np.sqrt(np.square(falloff).sum())
        colour = torch.tensor(_COLOUR_SQRT) / torch.tensor(_COLOUR_SQRT).norm(dim=0).max()
        colour = colour * torch.tensor([1.0, recipe.chroma, recipe.chroma])
        weights = torch.from_numpy(falloff.astype(np.float32))[:, :, None]
        return cls(size, weights.to(device), colour.to(device), recipe.phase_only)

    def noise(self, seeds: Integers) -> Tensor:
        """Coefficients of faint noise, one picture for each of ``seeds`` (n,); equal seeds give equal noise."""
        shape = (3, self.size, self.size // 2 + 1, 2)
        pictures = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return (torch.stack(pictures) * NOISE).to(self.falloff.device)

    def decode(self, coefficients: Tensor) -> Tensor:
        """``coefficients`` (n, 3, size, size // 2 + 1, 2) → RGB in [0, 1], float32 (n, 3, size, size)."""
        if self.phase_only:
            coefficients = coefficients / coefficients.norm(dim=-1, keepdim=True).clamp(min=_TINY)
        spectrum = torch.view_as_complex(coefficients * self.falloff)
        plane = torch.fft.irfft2(spectrum, s=(self.size, self.size), norm="ortho")
        return torch.sigmoid(torch.einsum("rc,nchw->nrhw", self.colour, plane))

    def encode(self, pixels: Tensor) -> Tensor:
        """The inverse of decode, for RGB in [0, 1], float32 (n, 3, size, size)."""
        plane = torch.einsum("cr,nrhw->nchw", torch.linalg.inv(self.colour), torch.logit(pixels, eps=_MARGIN))
        # The FFT may return permuted strides, which the fused optimiser would pair wrongly with the gradient's.
        return (torch.view_as_real(torch.fft.rfft2(plane, norm="ortho")) / self.falloff).contiguous()


def variation(pixels: Tensor) -> Tensor:
    """The mean step between neighbouring pixels of each picture (n, 3, h, w): (n,), in [0, 1]."""
    across, down = pixels.diff(dim=3).abs().flatten(1).mean(1), pixels.diff(dim=2).abs().flatten(1).mean(1)
    return (across + down) / 2


def to_bytes(pixels: Tensor) -> Pixels:
    """RGB in [0, 1] of shape (n, 3, h, w) → uint8 (n, h, w, 3), rounded."""
    scaled = pixels.detach().mul(255).round_().clamp_(0, 255)
    array: Pixels = scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def from_bytes(pixels: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (n, h, w, 3) → RGB in [0, 1], float32 (n, 3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float().div_(255)
