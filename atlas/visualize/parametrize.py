"""Pictures as spectra: what the optimiser turns its knobs on.

A picture is held as the coefficients of its Fourier transform in decorrelated colours (Olah, Mordvintsev and Schubert
2017, lucid). There, neighbouring pixels and colour channels no longer move together, so one step size fits all of
them and high frequencies do not run away as they do in pixels.

    coefficients → × falloff → inverse FFT → colour basis → sigmoid → RGB in [0, 1]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Square root of the covariance of ImageNet's RGB values (lucid). Columns: light–dark, blue–yellow, magenta–green.
_COLOUR_SQRT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
# How far the two chromatic axes are widened. At 1 the icons are greyish; cosines do not depend on it.
CHROMA = 2.5
# Exponent of the falloff of the spectrum with frequency. Natural pictures have about 1, but there the optimiser fills
# the high frequencies, which are most of the coefficients, with noise; at 2 the icons blur.
DECAY = 1.75
# Deviation of the first noise, in coefficients.
NOISE = 0.01
# Contrast: how far one step of the optimiser moves a pixel. At 0.3 the icons stay grey, at 3 they saturate.
_GAIN = 1.5
# A pixel of 0 or 255 has no finite inverse sigmoid: it is read as if it lay this far inside.
_MARGIN = 1 / 255


@dataclass(frozen=True)
class Fourier:
    """The parametrisation of square RGB pictures of ``size`` pixels by coefficients (n, 3, size, size // 2 + 1, 2).

    ``falloff`` (size, size // 2 + 1, 1) weights the frequencies, ``colour`` (3, 3) takes decorrelated to RGB.
    """

    size: int
    falloff: Tensor
    colour: Tensor

    @classmethod
    def make(
        cls, size: int, *, decay: float = DECAY, chroma: float = CHROMA, device: torch.device | str = "cpu"
    ) -> Fourier:
        """The parametrisation for pictures of ``size`` pixels, its constants on ``device``."""
        frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
        falloff = np.maximum(frequency * size, 1) ** -decay  # the mean colour weighs as much as the lowest frequency
        # Scaled so that a step of the optimiser moves a pixel equally far whatever the decay and the size.
        falloff *= _GAIN * size / np.sqrt(np.square(falloff).sum())
        colour = torch.tensor(_COLOUR_SQRT) / torch.tensor(_COLOUR_SQRT).norm(dim=0).max()
        colour = colour * torch.tensor([1.0, chroma, chroma])
        weights = torch.from_numpy(falloff.astype(np.float32))[:, :, None]
        return cls(size, weights.to(device), colour.to(device))

    def noise(self, seeds: NDArray[np.integer]) -> Tensor:
        """Coefficients of faint noise, one picture for each of ``seeds`` (n,); equal seeds give equal noise."""
        shape = (3, self.size, self.size // 2 + 1, 2)
        pictures = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return (torch.stack(pictures) * NOISE).to(self.falloff.device)

    def decode(self, coefficients: Tensor) -> Tensor:
        """Coefficients → RGB in [0, 1], float32 (n, 3, size, size)."""
        spectrum = torch.view_as_complex(coefficients * self.falloff)
        plane = torch.fft.irfft2(spectrum, s=(self.size, self.size), norm="ortho")
        return torch.sigmoid(torch.einsum("rc,nchw->nrhw", self.colour, plane))

    def encode(self, pixels: Tensor) -> Tensor:
        """The inverse of decode, for RGB in [0, 1] of shape (n, 3, size, size)."""
        plane = torch.einsum("cr,nrhw->nchw", torch.linalg.inv(self.colour), torch.logit(pixels, eps=_MARGIN))
        # The FFT may hand out permuted strides, and the fused optimiser would pair them wrongly with the gradient's.
        return (torch.view_as_real(torch.fft.rfft2(plane, norm="ortho")) / self.falloff).contiguous()


def to_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    """RGB in [0, 1] of shape (n, 3, h, w) → uint8 (n, h, w, 3), rounded."""
    scaled = pixels.detach().mul(255).round_().clamp_(0, 255)
    array: NDArray[np.uint8] = scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def from_bytes(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """uint8 (n, h, w, 3) → RGB in [0, 1], float32 (n, 3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float().div_(255)
