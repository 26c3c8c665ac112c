"""`UnitNorm` in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ovround.models.parts.unit_norm import UnitNorm

if TYPE_CHECKING:
    from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: UnitNorm, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    parts = inputs[0].unflatten(-1, (verb.heads, -1)).float()
    normed = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + verb.eps)
    out: torch.Tensor = normed.flatten(-2).to(inputs[0].dtype)
    return out
