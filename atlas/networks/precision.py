"""What a network computes in, and where bfloat16 is faster than float32."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

# What a network computes in, and what drawing may be asked for: "auto" is bfloat16 where the layer bears it and it
# pays.
Precision = Literal["float32", "bfloat16", "float16"]
AskedPrecision = Literal["auto", "float32", "bfloat16"]


def bfloat16_pays(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 faster than float32: GPUs since Ampere, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.8 does not say
    return bool(known.get("avx512_bf16") or known.get("amx_bf16")) and convolves_in(torch.bfloat16)


@cache
def convolves_in(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves ``dtype`` on this processor. Tried: what torch tells of the processor leaves out what
    oneDNN is told not to use (ONEDNN_MAX_CPU_ISA)."""
    one = torch.ones(1, 1, 1, 1, dtype=dtype)
    try:
        torch.mkldnn_convolution(one, one, None, [0, 0], [1, 1], [1, 1], 1)
    except RuntimeError:
        return False
    return True
