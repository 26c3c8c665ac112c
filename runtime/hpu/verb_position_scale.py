"""`PositionScale` in fixed shapes, where positions are a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.parts.attention import PositionScale
from ovround.models.verb_position_scale import scales
from ovround.runtime.hpu.static_ops import StaticOps


def compute(ops: StaticOps, verb: PositionScale, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """`[B, T, K]` -> the same."""
    return inputs[0] * scales(ops.positions(), verb).to(inputs[0].dtype)
