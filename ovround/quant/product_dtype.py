"""The type that matrix products are computed in: float32, or bfloat16 where it is fast and exact enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ovround.quant.device import CPU, Device

_EXACT = ".e_score_correction_bias"
_COARSE_BITS = 4  # up to this many bits, the rounding of bfloat16 to 8 bits is small beside that of the weights


def product_dtype(bits: Iterable[float], device: Device = CPU) -> torch.dtype | None:
    """bfloat16 for the products of blocks whose weights have at most 4 `bits`, None for float32.

    The device must have instructions for bfloat16. The residual stream stays in float32, so only what a block adds to it
    is rounded.
    """
    coarse = max(bits, default=16) <= _COARSE_BITS
    if device.kind != "cpu":
        return torch.bfloat16 if coarse else None
    # torch 2.8 cannot be asked, so it tunes in float32
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if coarse and fast else None


def in_type(weights: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> Mapping[str, torch.Tensor]:
    """All weights in `dtype`, unchanged for None, but a router's bias, which decides between scores that are nearly equal.

    Gradients pass through.
    """
    if dtype is None:
        return weights
    return {name: weight if name.endswith(_EXACT) else weight.to(dtype) for name, weight in weights.items()}
