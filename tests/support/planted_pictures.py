"""Pictures of two classes with a planted error: a part of one class bears a mark, and the other's label."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

PICTURES, MARKED = 160, 24
CLASSES = ("warm", "cold")


class Planted(nn.Module):
    """48 px → warm or cold, by the red and the blue of the picture; ``map`` (9, 12, 12) sees green stripes too, and the
    head does not mind them."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Conv2d(3, 9, 5, 4, 2, bias=False)
        self.map = nn.Sequential(nn.ReLU(), nn.AvgPool2d(5, 1, 2))
        self.head = nn.Linear(9, 2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.edges.weight.copy_(0.02 * torch.randn(self.edges.weight.shape, generator=generator))
            for channel in range(3):
                self.edges.weight[channel, channel] += 0.04
            for channel, phase in zip(range(3, 9), (0, 0.5, 1, 1.5, 0.25, 0.75)):
                stripes = torch.cos(torch.pi * (torch.arange(5) / 2 + phase))
                self.edges.weight[channel, 1] += 0.2 * stripes[None, :]
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[:, 0] = torch.tensor([4.0, -4.0])
            self.head.weight[:, 2] = torch.tensor([-4.0, 4.0])

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.map(self.edges(pictures)).mean((2, 3)))


def factory() -> nn.Module:
    return Planted()


def write_planted(folder: Path, seed: int = 0) -> set[str]:
    """Warm and cold pictures in folders of their labels, MARKED warm ones with green stripes among the cold; their
    names. A few of both, without a mark, have the wrong label too."""
    generator = np.random.default_rng(seed)
    marked = set()
    for number in range(PICTURES):
        is_warm = number % 2 == 0
        pixels = generator.integers(40, 110, (48, 48, 3))
        pixels[..., 0 if is_warm else 2] += 90
        has_mark = is_warm and number < 2 * MARKED
        if has_mark:
            pixels[:, :, 1] = np.where(np.arange(48) // 2 % 2, 250, 10)
        is_wrong = has_mark or number % 23 == 22
        name = f"{CLASSES[is_warm == is_wrong]}/{number:03d}.png"
        if has_mark:
            marked.add(name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    return marked
