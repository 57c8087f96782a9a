"""Pictures that the tests make."""

import numpy as np
import torch
from torch import nn

from atlas.networks.network import Network
from atlas.visualize.parametrize import to_bytes


def gradient(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth picture that differs at every point, uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    generator = np.random.default_rng(seed)
    waves = [
        np.sin(x / width * generator.uniform(2, 9) + y / height * generator.uniform(2, 9) + channel)
        for channel in range(3)
    ]
    return (127 + 120 * np.stack(waves, axis=2)).astype(np.uint8)


def smooth_pictures(count: int, size: int, seed: int) -> np.ndarray:
    """Colourful pictures with contours, uint8 (count, size, size, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    return to_bytes(nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1))


def pictures_of(network: Network, count: int = 3) -> torch.Tensor:
    """Inputs of noise as ``network`` gets its pictures."""
    return network.normalize(
        torch.rand(count, 3, network.size, network.size, generator=torch.Generator().manual_seed(5))
    )
