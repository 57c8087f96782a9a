"""The forward pass step by step: the shown arithmetic comes to the networks' own numbers; what the page is given."""

import base64
import gc
import json
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from small_network import factory, forking_factory
from torch import Tensor, nn
from traced import check, network_of, some_units, trace_of, view

from atlas.errors import ConfigError
from atlas.forward.steps import recording
from atlas.forward.trace import Trace, maps, trace, trace_facts
from atlas.forward.unit_arithmetic import unit_arithmetic
from atlas.networks.network import Network, load


def hooked(network: Network, inputs: Tensor) -> dict[str, list[Tensor]]:
    """What each module of the network gives, call by call."""
    outputs: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in network.module.named_modules():

        def keep(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            outputs.setdefault(name, []).append(output.clone())

        handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        network.module(inputs)
    for handle in handles:
        handle.remove()
    return outputs


KINDS = {
    "efficientnet_lite0": {"convolution", "activation", "add", "average_pool", "reshape", "linear"},
    "resnet18": {"convolution", "activation", "add", "max_pool", "average_pool", "reshape", "linear"},
    "googlenet": {
        "convolution", "activation", "add", "multiply", "max_pool", "concatenate", "average_pool", "reshape", "linear"
    },
    "shufflenet_v2_x0_5": {"convolution", "activation", "concatenate", "max_pool", "average_pool", "reshape", "linear"},
    "timm/test_efficientnet": {"convolution", "activation", "multiply", "average_pool", "reshape", "linear"},
    "timm/test_convnext": {
        "convolution", "activation", "add", "multiply", "average_pool", "reshape", "linear", "other"
    },
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_arithmetic_comes_to_the_networks_own_numbers(name: str) -> None:
    followed = trace_of(name)
    steps = followed.recording.steps
    assert {step.kind for step in steps} == KINDS[name] | {"input"}
    for step in steps:
        for channel, y, x in some_units(step, 12):
            answer = unit_arithmetic(followed, step.number, channel, y, x)
            assert (answer["kind"], answer["step"]) == (step.kind, step.number)
            check(answer)
            values = followed.maps(step.number)
            expected = values[channel, y, x] if values.ndim == 3 else values[channel]
            assert answer["value"] == pytest.approx(float(expected), rel=1e-7)
            if step.kind not in ("other", "input"):
                assert answer["terms"]
            if step.kind in ("activation", "max_pool", "other"):
                assert answer["formula"]["name"]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "googlenet", "timm/test_efficientnet"])
def test_steps_have_the_names_and_the_numbers_of_the_modules(name: str) -> None:
    followed, network = trace_of(name), network_of(name)
    outputs = hooked(network, view(network))
    count = 0
    for step in followed.recording.steps[1:]:
        module, _, call = step.name.partition(", call ")
        if module in outputs:
            expected = outputs[module][int(call or 1) - 1]
            output = followed.maps(step.number).reshape(expected.shape)
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
            count += 1
    convolutions = [step for step in followed.recording.steps if step.kind == "convolution"]
    modules = {name for name, module in network.module.named_modules() if isinstance(module, nn.Conv2d)}
    assert {step.name for step in convolutions} == modules
    assert count > 0.7 * len(followed.recording.steps)
    logits = outputs[""][0][0]
    torch.testing.assert_close(followed.maps(followed.recording.logits), logits, rtol=1e-4, atol=1e-4)
    answer = trace_facts(followed)["output"]
    shares = logits.softmax(0)
    for place, entry in enumerate(answer["classes"]):
        assert entry["class"] == int(logits.argsort(descending=True)[place])
        assert entry["logit"] == pytest.approx(float(logits[entry["class"]]), rel=1e-4, abs=1e-5)
        assert entry["probability"] == pytest.approx(float(shares[entry["class"]]), rel=1e-3)
    assert len(answer["classes"]) == 10
    assert answer["others"] == pytest.approx(1 - float(shares.topk(10).values.sum()), abs=1e-4)


def test_a_convolution_says_which_norm_it_holds_and_gives_that_norms_numbers(small: Network) -> None:
    followed = trace(small, view(small))
    steps = {step.name: step for step in followed.recording.steps}
    assert (steps["stem.conv"].folded, steps["stem.relu"].folded) == ("stem.bn", None)
    plain = factory().eval()
    outputs: dict[str, Tensor] = {}
    plain.stem.bn.register_forward_hook(lambda _module, _inputs, output: outputs.update(stem=output.clone()))
    with torch.no_grad():
        plain(view(small))
    for channel, y, x in some_units(steps["stem.conv"], 12):
        answer = unit_arithmetic(followed, steps["stem.conv"].number, channel, y, x)
        assert answer["total"] == pytest.approx(float(outputs["stem"][0, channel, y, x]), rel=1e-4, abs=1e-5)
        assert answer["bias"] is not None


def test_the_padding_in_front_of_a_convolution_belongs_to_it() -> None:
    """EfficientNet-Lite0 pads one row and column behind, and none in front."""
    followed = trace_of("efficientnet_lite0")
    stem = trace_facts(followed)["steps"][1]
    assert stem == {
        "step": 1, "name": "_conv_stem", "kind": "convolution", "operation": "convolution 3×3, stride 2",
        "shape": [32, 112, 112], "reads": [0], "layer": 1, "folded": "_bn0", "kernel": [3, 3], "stride": [2, 2],
        "padding": [[0, 1], [0, 1]], "dilation": [1, 1], "groups": 1,
    }  # fmt: skip
    corner = unit_arithmetic(followed, 1, 4, 111, 111)
    check(corner)
    picture = followed.maps(0)
    assert [term["step"] for term in corner["terms"]] == [0, 0, 0]
    for term in corner["terms"]:
        patch = np.array(term["patch"])
        assert (term["y"], term["x"]) == (222, 222)
        assert not patch[2].any()
        assert not patch[:, 2].any()
        np.testing.assert_allclose(patch[:2, :2], picture[term["channel"], 222:, 222:], rtol=1e-6)
    assert {term["title"] for term in corner["terms"]} == {f"{c} of the picture" for c in ("red", "green", "blue")}
    assert not any(step.operation == "padding" for step in followed.recording.steps)


def test_modules_that_do_nothing_name_no_step() -> None:
    """A dropout in use, and what is left of a norm that was folded."""
    names = [(step.name, step.operation) for step in trace_of("efficientnet_lite0").recording.steps]
    assert names[:6] == [
        ("picture", "input"),
        ("_conv_stem", "convolution 3×3, stride 2"),
        ("_swish, call 1", "ReLU6"),
        ("_blocks.0._depthwise_conv", "depthwise convolution 3×3"),
        ("_blocks.0._swish", "ReLU6"),
        ("_blocks.0._project_conv", "convolution 1×1"),
    ]
    assert names[-5:] == [
        ("_conv_head", "convolution 1×1"),
        ("_swish, call 2", "ReLU6"),
        ("_avg_pooling", "mean over height and width"),
        ("reshape", "reshape"),
        ("_fc", "linear, 1,280 → 1,000"),
    ]


def test_a_wrong_number_of_the_network_would_be_seen(small: Network) -> None:
    """The total does not come from the network's own output: were that wrong, they would differ."""
    followed = trace(small, view(small))
    for step in followed.recording.steps[1:]:
        values = list(followed.values)
        values[step.number] = values[step.number] + 1
        answer = unit_arithmetic(Trace(followed.recording, tuple(values)), step.number, 0)
        assert abs(answer["total"] - answer["value"]) == pytest.approx(1, rel=1e-3)


# What the page is given


def test_the_row_of_layers_and_their_strongest_channels(small: Network) -> None:
    facts = trace_facts(trace(small, view(small), ["stem.conv", "branches.wide"]))
    json.dumps(facts, allow_nan=False)
    assert (facts["network"], facts["size"]) == ("small_network:factory", 32)
    assert facts["mean"] == pytest.approx(small.mean)
    names = [layer["name"] for layer in facts["layers"]]
    assert names[0] == "picture"
    assert {"stem.conv", "stem", "branches.wide", "residual", "depthwise", "branches"} <= set(names)
    assert [layer["step"] for layer in facts["layers"]] == sorted(layer["step"] for layer in facts["layers"])
    assert facts["layers"][0] | {"strongest": 0} == {
        "name": "picture",
        "step": 0,
        "shape": [3, 32, 32],
        "strongest": 0,
    }
    with torch.no_grad():
        inside = small.activations(view(small), "residual")[0, :, 1:-1, 1:-1]
        expected = inside.amax((1, 2)).sort(descending=True, stable=True)
    residual = next(layer for layer in facts["layers"] if layer["name"] == "residual")
    assert residual["shape"] == [8, 16, 16]
    assert [channel["channel"] for channel in residual["strongest"]] == expected.indices[:8].tolist()
    assert [channel["largest"] for channel in residual["strongest"]] == pytest.approx(expected.values[:8].tolist())
    ends = [layer["step"] for layer in facts["layers"]]
    for step in facts["steps"]:
        assert step["layer"] == sum(end < step["step"] for end in ends)
        assert all(read < step["step"] for read in step["reads"])
    assert facts["steps"][-1]["layer"] == len(ends)
    assert facts["steps"][0]["kind"] == "input"
    assert [entry["class"] for entry in facts["output"]["classes"]] == sorted(
        range(5), key=lambda number: -next(k["logit"] for k in facts["output"]["classes"] if k["class"] == number)
    )
    assert facts["output"]["others"] == 0
    assert facts["steps"][facts["output"]["step"]]["name"] == "head"


def test_maps_travel_as_float32(small: Network) -> None:
    followed = trace(small, view(small))
    step = next(step for step in followed.recording.steps if step.name == "residual")
    with torch.no_grad():
        expected = small.activations(view(small), "residual")[0]
    by_channel = maps(followed, step.number, [5, 2, 5])["maps"]
    assert list(by_channel) == ["5", "2"]
    for channel, text in by_channel.items():
        values = np.frombuffer(base64.b64decode(text), "<f4").reshape(16, 16)
        np.testing.assert_allclose(values, expected[int(channel)], rtol=1e-4, atol=1e-5)
    (whole,) = maps(followed, followed.recording.logits)["maps"].values()
    with torch.no_grad():
        logits = small.module(view(small))[0]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(whole), "<f4"), logits, rtol=1e-4, atol=1e-5)


def test_what_is_no_number_becomes_null() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    with torch.no_grad():
        module[0].weight.mul_(1e30)
    network = load(module, size=12, device="cpu")
    followed = trace(network, view(network))
    with torch.no_grad():
        module[1].weight.mul_(1e30)
    broken = trace(network, view(network))  # the weights are the network's own, also after it was recorded
    assert not bool(broken.maps(2).isfinite().all())
    facts = [trace_facts(broken), maps(broken, 2, [0, 1]), *(unit_arithmetic(broken, step, 0) for step in range(6))]
    assert "NaN" not in json.dumps(facts, allow_nan=False)
    assert followed.recording is broken.recording


def test_networks_are_recorded_once_and_forgotten_with_their_module() -> None:
    network = load(factory(), size=32, device="cpu")
    followed = trace(network, view(network))
    assert recording(network) is followed.recording
    assert recording(network, ["stem"]) is not followed.recording
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.module.modules())
    module = weakref.ref(network.module)
    del network, followed
    gc.collect()
    assert module() is None


def test_pictures_at_the_same_time_do_not_mix() -> None:
    network = load(factory(), size=32, device="cpu")
    inputs = [view(network, seed) for seed in range(8)]
    with torch.no_grad():
        expected = [network.module(picture)[0] for picture in inputs]
    with ThreadPoolExecutor(8) as pool:
        traces = list(pool.map(lambda picture: trace(network, picture), inputs))
    for followed, logits in zip(traces, expected):
        torch.testing.assert_close(followed.maps(followed.recording.logits), logits, rtol=1e-4, atol=1e-5)


# Bad input


def test_a_network_whose_path_depends_on_the_picture_is_refused() -> None:
    network = load(forking_factory(), size=32, device="cpu")
    passes: list[int] = []
    sentence = r"Forking cannot be shown step by step: its path depends on the picture"
    with pytest.raises(ConfigError, match=sentence):
        trace(network, view(network))
    network.module.register_forward_pre_hook(lambda _module, _inputs: passes.append(1))
    with pytest.raises(ConfigError, match=sentence):
        trace(network, view(network))
    assert not passes  # it is known by now


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda t: unit_arithmetic(t, 99, 0), r"has no step 99\. Its steps are 0 to \d+\."),
        (lambda t: unit_arithmetic(t, -1, 0), r"has no step -1\."),
        (
            lambda t: unit_arithmetic(t, 1, 8),
            r"Step 1 \(stem\.conv\) of .* has no channel 8\. Its channels are 0 to 7\.",
        ),
        (lambda t: unit_arithmetic(t, 1, -1), r"has no channel -1\."),
        (lambda t: unit_arithmetic(t, 1, 0, 16), r"has no place with y = 16\. It has 16 rows, 0 to 15\."),
        (lambda t: unit_arithmetic(t, 1, 0, 0, -1), r"has no place with x = -1\. It has 16 columns, 0 to 15\."),
        (lambda t: unit_arithmetic(t, t.recording.logits, 0, 1), r"has no place with y = 1\. It has 1 row, number 0\."),
        (lambda t: unit_arithmetic(t, 1, 0, terms=0), r"0 terms were asked for\. Ask for 1 to 64"),
        (lambda t: unit_arithmetic(t, 1, 0, terms=65), r"65 terms were asked for\. Ask for 1 to 64"),
        (lambda t: maps(t, 99, [0]), r"has no step 99\."),
        (lambda t: maps(t, 1, [0, 8]), r"has no channel 8\."),
        (lambda t: maps(t, 1), r"0 channels of step 1 were asked for\. Ask for 1 to 256 of its 8\."),
        (lambda t: maps(t, t.recording.logits, range(300)), r"300 channels of step \d+ were asked for\."),
    ],
)
def test_what_there_is_not_is_a_sentence(small: Network, ask: Callable[[Trace], Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ask(trace(small, view(small)))


def test_wrong_layers_and_pictures_are_sentences(small: Network) -> None:
    with pytest.raises(ConfigError, match=r"has no layer 'residul'\. Near names: residual"):
        trace(small, view(small), ["residul"])
    with pytest.raises(ConfigError, match=r"Layer 'head' of .* gives no map of activations"):
        trace(small, view(small), ["head"])
    with pytest.raises(ConfigError, match=r"one picture of shape \(1, 3, 32, 32\), and \(2, 3, 32, 32\) was given"):
        trace(small, torch.zeros(2, 3, 32, 32))
