"""`HeadNorm` by torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ovround.models.parts.norms import HeadNorm
from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: HeadNorm, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """`[B, T, heads * size]` -> the same, computed in float32."""
    x = inputs[0]
    parts, shape = x.float().unflatten(-1, (verb.heads, verb.size)), (verb.size,)
    normal = (
        F.layer_norm(parts, shape, eps=verb.eps) if verb.kind == "layer" else F.rms_norm(parts, shape, eps=verb.eps)
    )
    normal = normal.flatten(-2)
    if not verb.at:
        return normal.to(x.dtype)
    weight = ops.weights[f"{verb.at}.weight"]
    return (normal * weight.flatten().float()).to(weight.dtype)
