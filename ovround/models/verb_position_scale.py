"""`PositionScale` by torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.parts.attention import PositionScale
from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: PositionScale, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """`[B, T, K]` -> the same."""
    (x,), held = inputs, ops.past(layer, "key")
    past = 0 if held is None else held.shape[2]
    return x * scales(torch.arange(past, past + x.shape[1], device=x.device), verb).to(x.dtype)


def scales(positions: torch.Tensor, verb: PositionScale) -> torch.Tensor:
    """The factor of each position, float32 `[..., 1]`."""
    periods = torch.div(positions, verb.period, rounding_mode="floor").float()
    return (1 + verb.beta * periods.log1p()).unsqueeze(-1)
