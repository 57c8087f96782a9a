"""Where half precision is worth its while."""

import pytest
import torch

from atlas.networks import precision
from atlas.networks.precision import bfloat16_pays

CPU = torch.device("cpu")


def test_bfloat16_pays_where_the_processor_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, pays in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities, raising=False
        )
        for convolves in (True, False):  # oneDNN may be configured not to use it
            monkeypatch.setattr(precision, "convolves_in", lambda dtype, convolves=convolves: convolves)
            assert bfloat16_pays(CPU) is (pays and convolves)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # older torch
    assert bfloat16_pays(CPU) is False


def test_a_gpu_has_bfloat16_since_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, pays in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert bfloat16_pays(torch.device("cuda")) is pays


def test_whether_a_type_is_convolved_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("mkldnn_convolution: bf16 path needs the cpu support")

    precision.convolves_in.cache_clear()
    assert precision.convolves_in(torch.float32)
    monkeypatch.setattr(torch, "mkldnn_convolution", refuse)
    assert precision.convolves_in(torch.float32), "tried once"
    precision.convolves_in.cache_clear()
    assert not precision.convolves_in(torch.float32)
    precision.convolves_in.cache_clear()


def test_the_mean_cosine_goes_along_the_channels() -> None:
    values = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]]).transpose(0, 1)  # (1, 2, 2)
    other = torch.tensor([[[1.0, 1.0], [3.0, 0.0]]])
    # At the first place (1, 3) against (1, 3), at the second nothing against (1, 0).
    assert precision.mean_cosine(values, other) == pytest.approx(0.5)
    assert precision.mean_cosine(values.half(), other.half()) == pytest.approx(0.5)
