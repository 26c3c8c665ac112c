"""`selective_scan` in torch: chunk after chunk, by matrix products within a chunk; one token is a chunk of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ovround.models.parts.selective_scan import SCAN_STATE, SelectiveScan
from ovround.models.torch_ops import TorchOps

_CHUNK = 64  # tokens: a chunk's products grow with its square, and the exponents' rounding with its length


def compute(ops: TorchOps, verb: SelectiveScan, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """`[B, T, H*P + 2*G*N]` and `[B, T, H]` -> `[B, T, H*P]`, in float32 within."""
    joined, steps = inputs[0], time_steps(ops, verb, inputs[1])
    state = ops.past(layer, SCAN_STATE)
    if state is None:
        state = steps.new_zeros(len(steps), verb.heads, verb.state_size, verb.head_dim)
    output, state = scan_in_chunks(ops, verb, joined, steps, state)
    ops.keep(layer, SCAN_STATE, state)
    return output


def scan_in_chunks(
    ops: TorchOps, verb: SelectiveScan, joined: torch.Tensor, steps: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """y `[B, T, H*P]` in the type of `joined`, and the state `[B, H, N, P]` after it."""
    outputs = []
    for chunk, chunk_steps in zip(joined.split(_CHUNK, 1), steps.split(_CHUNK, 1), strict=True):
        output, state = scan(ops, verb, chunk, chunk_steps, state)
        outputs.append(output)
    return torch.cat(outputs, 1).to(joined.dtype), state


def time_steps(ops: TorchOps, verb: SelectiveScan, raw: torch.Tensor) -> torch.Tensor:
    """The steps d `[B, T, H]` in float32."""
    steps = F.softplus(raw.float() + ops.weights[f"{verb.at}.dt_bias"].float())
    return steps.clamp(*verb.limits) if verb.is_limited else steps


def scan(
    ops: TorchOps, verb: SelectiveScan, joined: torch.Tensor, steps: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """y `[B, T, H*P]` of one chunk, and the state `[B, H, N, P]` after it. A step of 0 leaves the state as it is."""
    groups, tokens = verb.groups, steps.shape[1]
    x, keys, queries = joined.float().split(verb.joined_sizes, -1)
    values = x.unflatten(-1, (groups, -1, verb.head_dim)).permute(0, 2, 3, 1, 4)  # [B, G, H/G, T, P]
    keys, queries = (part.unflatten(-1, (groups, 1, -1)).permute(0, 2, 3, 1, 4) for part in (keys, queries))
    weights = ops.weights
    per_head = steps.transpose(1, 2).unflatten(1, (groups, -1))  # [B, G, H/G, T]
    decay = -weights[f"{verb.at}.A_log"].float().exp().view(groups, -1, 1)
    logs = (per_head * decay).cumsum(-1)  # logarithms of how much of the state before the chunk is left
    gained = values * per_head.unsqueeze(-1)
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=steps.device).triu(1)
    shares = (logs.unsqueeze(-1) - logs.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    before = state.unflatten(1, (groups, -1))
    within = (queries @ keys.transpose(-1, -2) * shares) @ gained
    output = within + (queries @ before) * logs.exp().unsqueeze(-1)
    output = output + values * weights[f"{verb.at}.D"].float().view(groups, -1, 1, 1)
    last = logs[..., -1:]
    grown = keys.transpose(-1, -2) @ (gained * (last - logs).exp().unsqueeze(-1))
    after = before * last.exp().unsqueeze(-1) + grown
    return output.permute(0, 3, 1, 2, 4).flatten(2), after.flatten(1, 2)
