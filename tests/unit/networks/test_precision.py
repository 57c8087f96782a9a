"""Where half precision is worth its while."""

import pytest
import torch

from atlas.networks import precision
from atlas.networks.precision import bfloat16_pays

CPU = torch.device("cpu")


def test_bfloat16_pays_where_the_processor_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, pays in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        for convolves in (True, False):  # oneDNN may be configured not to use it
            monkeypatch.setattr(precision, "convolves_in", lambda dtype, convolves=convolves: convolves)
            assert bfloat16_pays(CPU) is (pays and convolves)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # older torch
    assert bfloat16_pays(CPU) is False
