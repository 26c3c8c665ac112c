"""`section_scale` in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.parts.section_scale import SectionScale
from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: SectionScale, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """`[B, T, K]` -> the same."""
    parts = inputs[0].split(verb.sizes, -1)
    return torch.cat([part * factor for part, factor in zip(parts, verb.factors, strict=True)], -1)
