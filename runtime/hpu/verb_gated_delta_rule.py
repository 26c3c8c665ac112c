"""`gated_delta_rule` in fixed shapes: padding leaves the state as it is, and a triangular system is solved by halves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.parts.gated_delta_net import RECURRENT, GatedDeltaRule
from ovround.models.verb_gated_delta_rule import delta_rule
from ovround.runtime.hpu.static_ops import StaticOps


def compute(ops: StaticOps, verb: GatedDeltaRule, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """query, key and value side by side, a and b -> `[B, T, H_v * D_v]`."""
    real = ops.real_tokens(inputs[0].shape[1])
    out, state = delta_rule(ops, verb, inputs, ops.past(layer, RECURRENT), _solved, real)
    ops.keep(layer, RECURRENT, state)
    return out


def _solved(system: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """x with system x = wanted, of whose `system` what is below the diagonal, all ones, is read: the first half, then the second.

    A device need not have a triangular solver, and a sum of powers loses all digits where keys repeat.
    """
    size = wanted.shape[-2]
    if size == 1:
        return wanted
    half = size // 2
    first = _solved(system[..., :half, :half], wanted[..., :half, :])
    rest = wanted[..., half:, :] - system[..., half:, :half] @ first
    return torch.cat([first, _solved(system[..., half:, half:], rest)], -2)
