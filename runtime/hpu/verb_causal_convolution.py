"""`causal_convolution` in fixed shapes: the tail that stays is the one before a row's padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ovround.models.parts.causal_convolution import TAIL, CausalConvolution
from ovround.runtime.hpu.static_ops import StaticOps


def compute(ops: StaticOps, verb: CausalConvolution, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """Inputs with C features together -> `[B, T, C]`."""
    x, weight = torch.cat([*inputs], -1).transpose(1, 2), ops.weights[f"{verb.at}.weight"]
    whole = torch.cat([ops.past(layer, TAIL).to(x.dtype), x], -1)
    places = ops.counts.unsqueeze(-1) + torch.arange(verb.kernel_size - 1, device=x.device)
    tail = whole.gather(2, places.unsqueeze(1).expand(-1, verb.channels, -1))
    bias = ops.weights[f"{verb.at}.bias"] if verb.bias else None
    out = F.conv1d(whole.to(weight.dtype), weight, bias, groups=verb.channels)
    ops.keep(layer, TAIL, tail)
    return (F.silu(out) if verb.silu else out).to(x.dtype).transpose(1, 2)
