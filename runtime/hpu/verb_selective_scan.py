"""`selective_scan` in fixed shapes: a step of 0 leaves the state as it is, so that padding takes one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.parts.selective_scan import SCAN_STATE, SelectiveScan
from ovround.models.verb_selective_scan import scan_in_chunks, time_steps
from ovround.runtime.hpu.static_ops import StaticOps


def compute(ops: StaticOps, verb: SelectiveScan, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """`[B, T, H*P + 2*G*N]` and `[B, T, H]` -> `[B, T, H*P]`."""
    real = ops.real_tokens(inputs[1].shape[1]).unsqueeze(-1)
    steps = time_steps(ops, verb, inputs[1]) * real
    output, state = scan_in_chunks(ops, verb, inputs[0], steps, ops.past(layer, SCAN_STATE))
    ops.keep(layer, SCAN_STATE, state)
    return output
