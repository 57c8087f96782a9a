"""Tuning curves: planted units whose answer to turned pictures is known, on plain functions of pictures."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atlas.networks.network import Layer, describe_layer, load
from atlas.neurons.tables import DEGREES
from atlas.neurons.tuning import (
    MIRRORED,
    ROTATED,
    SCALED,
    PatchWindow,
    Pose,
    figures,
    patch_middle,
    posed_discs,
    sprites,
    tuning,
    window_of,
)

WINDOW = PatchWindow(side=61, x=30.5, y=30.5, radius=28.0)
PLACE = (50.5, 40.5)
DOWN, ACROSS = torch.meshgrid(torch.arange(61) - 30.0, torch.arange(61) - 30.0, indexing="ij")
NEAR = torch.exp(-(DOWN**2 + ACROSS**2) / 100)


def view(bright: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A grey picture (3, 90, 100); ``bright`` of the distances right of and below PLACE, in pixels, is added to it."""
    y, x = torch.meshgrid(torch.arange(90) + 0.5 - PLACE[1], torch.arange(100) + 0.5 - PLACE[0], indexing="ij")
    return (0.5 + 0.3 * bright(x, y)).clamp(0, 1).expand(3, 90, 100).clone()


def unit(kernel: Tensor, bias: float = 0.0) -> Callable[[Tensor], Tensor]:
    """A unit that holds ``kernel`` (61, 61) against the picture, without its mean."""
    kernel = (kernel - kernel.mean()) / kernel.abs().sum()
    return lambda pictures: (pictures.mean(1) * kernel).sum((1, 2)) + bias


def edge(x: Tensor, y: Tensor) -> Tensor:
    return torch.tanh(x / 4)


def blobs(x: Tensor, y: Tensor) -> Tensor:
    return torch.exp(-((x - 12) ** 2 + (y - 6) ** 2) / 30) - torch.exp(-((x + 9) ** 2 + (y + 13) ** 2) / 20)


def stripes(x: Tensor, y: Tensor) -> Tensor:
    return torch.cos(x / 3)


def test_a_radially_symmetric_unit_is_invariant() -> None:
    ring = torch.exp(-((torch.hypot(DOWN, ACROSS) - 12) ** 2) / 8)
    curves = tuning(
        unit(ring), torch.stack([view(blobs), view(lambda x, y: -edge(y, x) + x / 60)]) * 0.8, [PLACE] * 2, WINDOW
    )
    assert curves.rotated.shape == curves.mirrored.shape == (2, 24)
    assert curves.scaled.shape == (2, 5)
    np.testing.assert_allclose(
        curves.rotated, curves.rotated[:, :1].repeat(24, 1), atol=2e-3 * np.abs(curves.rotated).max()
    )
    np.testing.assert_allclose(curves.mirrored, curves.rotated, atol=2e-3 * np.abs(curves.rotated).max())
    summary = figures(np.abs(curves.rotated))
    assert summary.invariance is not None
    assert summary.invariance > 0.99
    assert summary.selectivity is not None
    assert summary.selectivity < 0.01
    assert summary.note is None


def test_a_unit_of_one_orientation_prefers_its_angle() -> None:
    """The picture is bright on the right, the unit looks for bright below: a quarter turn clockwise."""
    below = NEAR * torch.tanh(DOWN / 4)
    answer = unit(below)
    peak = float(tuning(answer, view(edge)[None], [PLACE], WINDOW).rotated.max())
    curves = tuning(unit(below, 1.2 * peak), view(edge)[None], [PLACE], WINDOW)
    assert DEGREES[int(curves.rotated[0].argmax())] == 90
    summary = figures(curves.rotated)
    assert summary.preferred == pytest.approx(90, abs=1)
    assert summary.selectivity is not None
    assert 0.3 < summary.selectivity < 0.5
    assert summary.invariance == pytest.approx(1.2 / 2.2, abs=0.03)
    # Mirrored first, what was bright on the right is bright on the left: three quarters of a turn.
    assert DEGREES[int(curves.mirrored[0].argmax())] == 270


def test_under_half_of_the_peak_no_selectivity_is_given() -> None:
    """max(0, cos θ) has a mean of 1/π of its peak."""
    curves = tuning(unit(NEAR * torch.tanh(DOWN / 4)), view(edge)[None], [PLACE], WINDOW)
    summary = figures(curves.rotated)
    assert summary.selectivity is None
    assert summary.preferred == pytest.approx(90, abs=1)
    assert summary.invariance == pytest.approx(1 / math.pi, abs=0.03)
    assert summary.note is not None
    assert "under the half" in summary.note


def test_a_grating_answers_alike_to_opposite_angles() -> None:
    """A period of 180° cancels in the selectivity; the invariance tells it."""
    curves = tuning(unit(NEAR * torch.cos(ACROSS / 3)), view(stripes)[None], [PLACE], WINDOW)
    np.testing.assert_allclose(curves.rotated[0, :12], curves.rotated[0, 12:], atol=0.1 * curves.rotated.max())
    assert DEGREES[int(curves.rotated[0].argmax())] in (0, 180)
    assert curves.rotated[0, 6] < 0.1 * curves.rotated[0, 0]
    summary = figures(curves.rotated)
    assert summary.selectivity is None
    assert summary.invariance is not None
    assert summary.invariance < 0.4
    lifted = figures(curves.rotated + curves.rotated.max())
    assert lifted.selectivity is not None
    assert lifted.selectivity < 0.01


def test_a_unit_that_never_fires_is_told_so() -> None:
    curves = tuning(lambda pictures: pictures.mean((1, 2, 3)) - 5, view(blobs)[None], [PLACE], WINDOW)
    assert (curves.rotated < 0).all(), "activations stay as they are"
    summary = figures(curves.rotated)
    assert (summary.selectivity, summary.invariance, summary.preferred) == (None, None, None)
    assert summary.note == "It does not fire at any angle when its top patches are cut to a disc."
    nothing = figures(tuning(lambda pictures: pictures.mean((1, 2, 3)), torch.zeros(0), [], WINDOW).rotated)
    assert nothing.note == "None of its top pictures can be read any more."


def test_figures_by_hand() -> None:
    """Two patches: r is the mean of what is above 0, patch by patch."""
    curve = np.full((2, 24), 1.0, np.float32)
    curve[0, 0], curve[1, 0] = 3.0, 5.0
    curve[1, 12] = -7.0  # 0, not −7
    summary = figures(curve)
    total = 4 + 22 + 0.5
    assert summary.invariance == pytest.approx(total / 24 / 4)
    assert summary.selectivity is None
    curve += 4
    total = 8 + 22 * 5 + 2.5
    summary = figures(curve)
    assert summary.selectivity == pytest.approx((8 - 2.5) / total, rel=1e-4)
    assert summary.preferred is not None
    assert math.cos(math.radians(summary.preferred)) == pytest.approx(1)


def test_every_angle_shows_the_same_on_a_plain_ground() -> None:
    picture = view(blobs)
    picture[0] *= 0.5
    discs = posed_discs(picture, PLACE, WINDOW, ROTATED)
    ground = picture.mean((1, 2))
    outside = torch.hypot(DOWN, ACROSS) > WINDOW.radius
    for picture_of_disc in discs:
        np.testing.assert_allclose(
            picture_of_disc[:, outside], ground[:, None].expand(3, int(outside.sum())), atol=1e-6
        )
    for quarter in range(4):  # torch turns against the clock
        np.testing.assert_allclose(discs[6 * quarter], discs[0].rot90(-quarter, (1, 2)), atol=0.02)
    (mirrored,) = posed_discs(picture, PLACE, WINDOW, (MIRRORED[0],))
    np.testing.assert_allclose(mirrored, discs[0].flip(2), atol=0.02)
    # The middle of the window shows the place.
    bright = view(lambda x, y: torch.exp(-(x**2 + y**2) / 3))
    at = (
        posed_discs(bright, PLACE, WINDOW, (ROTATED[0], ROTATED[3], Pose(scale=0.5), Pose(scale=2.0)))[:, 0]
        .flatten(1)
        .argmax(1)
    )
    assert {(int(middle) // 61, int(middle) % 61) for middle in at} <= {(y, x) for y in (29, 30) for x in (29, 30)}


def test_sizes_are_as_asked() -> None:
    disc = view(lambda x, y: (torch.hypot(x, y) < 8).float() * 2 - 1)
    widths = [int((picture_of_disc[0, 30] > 0.6).sum()) for picture_of_disc in posed_discs(disc, PLACE, WINDOW, SCALED)]
    assert widths == pytest.approx([8, 11, 16, 23, 32], abs=2)


def test_sprites_are_cut_close(tmp_path: object) -> None:
    small = sprites(view(blobs), PLACE, WINDOW, ROTATED[:2], 40)
    assert small.shape == (2, 40, 40, 3)
    assert small.dtype == torch.uint8
    assert small.float().std() > 5


class Shifted(nn.Module):
    """Two convolutions of stride 2 whose padding lies on one side: position i looks at pixel 4 i."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.second(self.first(pictures)).mean((2, 3)))


def test_the_window_is_where_the_middle_of_the_map_looks() -> None:
    torch.manual_seed(1)
    network = load(Shifted(), size=64)
    layer = describe_layer(network, "second")
    window = window_of(network, layer)
    assert window.side < 64
    assert (window.side // 4) % 2 == 1
    expected = 4 * (window.side // 4 // 2) + 0.5
    assert window.x == pytest.approx(expected, abs=1)
    assert window.off_x == pytest.approx(-1.5, abs=0.6)
    assert window.off_y == pytest.approx(-1.5, abs=0.6)
    x, y = patch_middle((3, 5), layer, 64, window)
    assert (x, y) == pytest.approx((20.5, 12.5), abs=0.6)
    assert window.radius <= min(window.x, window.side - window.x)
    # A layer that sees all of the picture: the whole of it is the window.
    wide = Layer("second", 8, 16, 16, 4, 64, 64)
    assert window_of(network, wide).side == 64
