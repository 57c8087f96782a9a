"""Convolutions by weights in oneDNN's own order, against torch's."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from atlas.networks.program import kernel as kernels
from atlas.networks.program.kernel import Bounds, Kernel


def kernel(groups: int = 1, side: int = 3, stride: int = 1) -> Kernel:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 6 // groups, side, side, generator=generator)
    margin = side // 2
    return Kernel(weight, torch.randn(6, generator=generator), [stride] * 2, [margin] * 2, [1, 1], groups)


def inputs_of(count: int = 2, side: int = 9) -> Tensor:
    return torch.randn(count, 6, side, side, generator=torch.Generator().manual_seed(count * side))


def by_torch(kernel: Kernel, inputs: Tensor, bounds: Bounds | None = None) -> Tensor:
    outputs = functional.conv2d(
        inputs, kernel.weight, kernel.bias, kernel.stride, kernel.padding, kernel.dilation, kernel.groups
    )
    return outputs if bounds is None else outputs.clamp(*bounds)


@pytest.mark.parametrize("bounds", [None, (0.0, None), (0.0, 6.0), (-1.0, 1.0)])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2), (4, 2)])
def test_values_are_torchs(bounds: Bounds | None, groups: int, side: int, stride: int) -> None:
    one = kernel(groups, side, stride)
    torch.testing.assert_close(one(inputs_of(), bounds), by_torch(one, inputs_of(), bounds), rtol=1e-4, atol=1e-5)
    plain = one.without_bias()
    expected = functional.conv2d(inputs_of(), one.weight, None, one.stride, one.padding, one.dilation, one.groups)
    torch.testing.assert_close(plain(inputs_of()), expected, rtol=1e-4, atol=1e-5)


def test_inputs_of_many_shapes_and_threads_share_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_MOST_SHAPES", 2)
    one = kernel()
    batches = [inputs_of(count, side) for _ in range(4) for count in (1, 2, 3) for side in (3, 5)]
    with ThreadPoolExecutor(4) as pool:
        for outputs, inputs in zip(pool.map(one, batches), batches):
            torch.testing.assert_close(outputs, by_torch(one, inputs), rtol=1e-4, atol=1e-5)
    for inputs in batches:
        one(inputs)
    assert len(one._packed) == 2


def test_without_onednn_torch_convolves(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_torch(kernel(), inputs_of(), (0.0, 6.0))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(kernel()(inputs_of(), (0.0, 6.0)), expected, rtol=1e-4, atol=1e-5)


def test_weights_may_be_wider_than_the_inputs() -> None:
    one = kernel()
    outputs = one(inputs_of().bfloat16())
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs, by_torch(one, inputs_of().bfloat16().float()).bfloat16())
