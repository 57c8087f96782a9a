"""The forward pass of small networks, recorded, and the account of a unit checked; shared by its tests."""

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from atlas.forward.steps import ForwardStep
from atlas.forward.trace import Trace, trace
from atlas.networks.network import Network, load


def view(network: Network, seed: int = 5) -> Tensor:
    """A smooth picture with some noise, normalised."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 7, generator=generator)
    smooth = functional.interpolate(coarse, (network.size, network.size), mode="bicubic").clamp(0, 1)
    noise = torch.rand(smooth.shape, generator=generator)
    return network.normalize(0.8 * smooth + 0.2 * noise)


def stirred(module: nn.Module) -> nn.Module:
    """Norms that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                for values, low, high in ((child.weight, 0.6, 1.4), (child.running_var, 0.6, 1.4)):
                    values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
                for values in (child.bias, child.running_mean):
                    values.copy_(torch.randn(values.shape, generator=generator) * 0.3)
    return module


@cache
def network_of(name: str) -> Network:
    """A network with random weights, made once."""
    import timm
    from torchvision import models

    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        return load(name, device="cpu")
    if name == "googlenet":
        # As with torchvision's own weights, the input is scaled once more inside.
        return load(stirred(models.googlenet(aux_logits=False, init_weights=False, transform_input=True)), device="cpu")
    if name.startswith("timm/"):
        return load(stirred(timm.create_model(name.removeprefix("timm/"))), size=96, device="cpu")
    return load(stirred(models.get_model(name)), size=224 if name == "resnet18" else 96, device="cpu")


@cache
def trace_of(name: str) -> Trace:
    return trace(network_of(name), view(network_of(name)))


def some_units(step: ForwardStep, count: int, seed: int = 0) -> Iterator[tuple[int, int, int]]:
    generator = random.Random(f"{seed} {step.number}")
    _, height, width = step.shape if len(step.shape) == 3 else (1, 1, 1)
    for _ in range(count):
        yield generator.randrange(step.shape[0]), generator.randrange(height), generator.randrange(width)


def size_of(answer: dict[str, Any]) -> float:
    """Against what a difference is judged: the number, or a hundredth of what it is the sum of."""
    parts = [abs(term["sum"]) for term in answer["terms"]]
    if answer["other_terms"]:
        parts.append(abs(answer["other_terms"]["sum"]))
    return max(abs(answer["value"]), 0.01 * sum(parts), 1e-9)


def _rounding(answer: dict[str, Any]) -> float:
    """What float32 may lose of the products that are shown: where they nearly cancel within one term, what is left
    depends on the order in which a processor adds."""
    kernel_terms = [term for term in answer["terms"] if term["kernel"] is not None]
    sizes = sum(float(np.abs(np.array(term["patch"]) * np.array(term["kernel"])).sum()) for term in kernel_terms)
    return float(np.finfo(np.float32).eps) * sizes


def check(answer: dict[str, Any]) -> None:
    """The total is the network's number, and the terms are whole: what is shown comes to the total."""
    assert abs(answer["total"] - answer["value"]) <= max(1e-4 * size_of(answer), _rounding(answer)), answer
    sums = [term["sum"] for term in answer["terms"]]
    whole = sum(sums) + (answer["other_terms"] or {"sum": 0})["sum"] + (answer["bias"] or 0)
    if answer["kind"] == "multiply":
        assert np.isclose(np.prod(sums), answer["total"], rtol=1e-6, atol=1e-12)
    elif answer["kind"] not in ("activation", "other", "input"):
        assert abs(whole - answer["total"]) <= 1e-6 * max(size_of(answer), sum(map(abs, sums))), answer
    assert sums == sorted(sums, key=abs, reverse=True) or answer["kind"] == "multiply"
    for term in answer["terms"]:
        if term["kernel"] is not None and max(np.shape(term["patch"])) < 49:
            product = float((np.array(term["patch"]) * np.array(term["kernel"])).sum())
            assert np.isclose(product, term["sum"], rtol=1e-5, atol=1e-6)
    if answer["inner"]:
        read = answer["terms"][0]
        assert {key: answer["inner"][key] for key in ("step", "channel", "y", "x")} == {
            key: read[key] for key in ("step", "channel", "y", "x")
        }
        check(answer["inner"])


class OneOperation(nn.Module):
    """One operation on the picture, and a mean behind it."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, pictures: Tensor) -> Tensor:
        return self.operation(pictures).flatten(2).mean(2)


def trace_operation(operation: Callable[[Tensor], Tensor]) -> Trace:
    """The trace of a network of one operation, on a picture of 6 × 6 pixels."""
    network = load(OneOperation(operation), size=6, mean=[0.5] * 3, std=[0.5] * 3, device="cpu")
    return trace(network, view(network))
