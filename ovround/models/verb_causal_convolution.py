"""`causal_convolution` in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ovround.models.parts.causal_convolution import TAIL, CausalConvolution
from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: CausalConvolution, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """Inputs with C features together -> `[B, T, C]`."""
    x, weight = torch.cat([*inputs], -1).transpose(1, 2), ops.weights[f"{verb.at}.weight"]
    held = ops.past(layer, TAIL)
    if held is None:
        held = x.new_zeros(x.shape[0], verb.channels, verb.kernel_size - 1)
    whole = torch.cat([held.to(x.dtype), x], -1)
    ops.keep(layer, TAIL, whole[..., 1 - verb.kernel_size :])
    bias = ops.weights[f"{verb.at}.bias"] if verb.bias else None
    out = F.conv1d(whole.to(weight.dtype), weight, bias, groups=verb.channels)
    return (F.silu(out) if verb.silu else out).to(x.dtype).transpose(1, 2)
