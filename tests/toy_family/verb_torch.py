"""`gated_recurrence` in torch, one token after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.torch_ops import TorchOps
from toy_family.gated_recurrence import GatedRecurrence


def compute(ops: TorchOps, verb: GatedRecurrence, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """`[B, T, size]` twice -> `[B, T, size]`."""
    share, value = inputs[0].float().sigmoid(), inputs[1].float()
    held = ops.past(layer, "hidden")
    hidden = torch.zeros_like(value[:, 0]) if held is None else held
    steps = []
    for token in range(value.shape[1]):
        hidden = share[:, token] * hidden + (1 - share[:, token]) * value[:, token]
        steps.append(hidden)
    ops.keep(layer, "hidden", hidden)
    return torch.stack(steps, 1).to(inputs[1].dtype)
