"""The floating-point types that a network computes in: where bfloat16 is faster, and how near half precision comes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas.networks.program.fused import convolves_in

# What a network computes in.
Precision = Literal["float32", "bfloat16", "float16"]
# What drawing may be asked to compute in; "auto": bfloat16 where it is faster and near enough to float32.
AskedPrecision = Literal["auto", "float32", "bfloat16"]
# Half precision is used only where a layer's activations have at least this mean cosine to those in float32.
LEAST_COSINE = 0.98


def bfloat16_pays(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 faster than float32: GPUs since Ampere, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.8 and later
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")) and convolves_in(torch.bfloat16)


def mean_cosine(values: Tensor, expected: Tensor) -> float:
    """The mean cosine of two tensors (n, channels, …) along their channels, computed in float32."""
    return float(F.cosine_similarity(values.float(), expected.float(), dim=1).mean())
