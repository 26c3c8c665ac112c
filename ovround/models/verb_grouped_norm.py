"""`grouped_norm` in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.parts.grouped_norm import GroupedNorm
from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: GroupedNorm, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """`[B, T, size]` -> the same, in float32 within."""
    x = inputs[0]
    parts = x.float().unflatten(-1, (verb.groups, -1))
    normal = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + verb.eps)
    scaled: torch.Tensor = normal.flatten(-2) * ops.weights[f"{verb.at}.weight"].float()
    return scaled.to(x.dtype)
