"""The parametrisation of a picture: its coefficients, and back."""

import numpy as np
import pytest
import torch
from made_pictures import smooth_pictures

from atlas.visualize import Recipe
from atlas.visualize.parametrize import Fourier, from_bytes, to_bytes, variation

SIZE = 32


@pytest.mark.parametrize("size", [32, 33, 80])
def test_encoded_picture_decodes_to_itself(size: int) -> None:
    pixels = smooth_pictures(3, size, seed=2)
    fourier = Fourier.make(size)
    again = to_bytes(fourier.decode(fourier.encode(from_bytes(pixels))))
    assert np.abs(again.astype(int) - pixels.astype(int)).max() <= 1


def test_encoded_coefficients_are_contiguous_for_the_fused_optimiser() -> None:
    assert Fourier.make(80).encode(torch.rand(2, 3, 80, 80)).is_contiguous()


def test_phases_alone_leave_the_magnitudes_of_the_falloff() -> None:
    fourier = Fourier.make(SIZE, Recipe(phase_only=True, decay=1.0))
    noise = fourier.noise(np.arange(2))
    assert torch.allclose(fourier.decode(noise), fourier.decode(7 * noise), atol=1e-5)
    planes = torch.einsum("cr,nrhw->nchw", torch.linalg.inv(fourier.colour), torch.logit(fourier.decode(noise)))
    magnitudes = torch.fft.rfft2(planes, norm="ortho").abs()[:, :, 1:16, 1:16]  # away from the edges of the half plane
    assert torch.allclose(magnitudes, fourier.falloff[1:16, 1:16, 0].expand_as(magnitudes), rtol=1e-2)


def test_variation_is_the_mean_step_between_pixels() -> None:
    stripes = (torch.arange(8) % 2).float().expand(1, 3, 8, 8)
    assert float(variation(stripes)) == 0.5  # 1 across, 0 down
    assert float(variation(torch.full((1, 3, 8, 8), 0.3))) == 0


def test_noise_depends_on_its_seed_only() -> None:
    fourier = Fourier.make(SIZE)
    noise = fourier.noise(np.array([5, 6, 5]))
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[1], fourier.noise(np.array([6]))[0])
    assert fourier.decode(noise).std() < 0.05


def test_step_in_coefficients_moves_pixels_equally_at_every_size() -> None:
    spread = []
    for size in (40, 160):
        fourier = Fourier.make(size)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(4, 3, size, size // 2 + 1, 2, generator=generator) * 0.1
        spread.append(float(fourier.decode(noise).std(dim=(2, 3)).mean()))
    assert spread[0] == pytest.approx(spread[1], rel=0.2)
