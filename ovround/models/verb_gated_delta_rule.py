"""`gated_delta_rule` in torch: a prompt in chunks of tokens, with matrix products inside a chunk; a step as it is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ovround.models.parts.gated_delta_net import NORM_EPS, RECURRENT, GatedDeltaRule
from ovround.models.torch_ops import TorchOps

_CHUNK = 64  # tokens


def compute(ops: TorchOps, verb: GatedDeltaRule, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """query, key and value side by side, a and b -> `[B, T, H_v * D_v]`; float32 inside, whatever the weights are."""
    mixed, a, b = inputs
    query, key, value = mixed.float().split(verb.widths, -1)
    repeats = verb.value_heads // verb.key_heads
    query, key = (_unit(heads.unflatten(-1, (verb.key_heads, -1))) for heads in (query, key))
    query, key = (heads.repeat_interleave(repeats, 2).transpose(1, 2) for heads in (query, key))
    value = value.unflatten(-1, (verb.value_heads, -1)).transpose(1, 2)
    rate, bias = ops.weights[f"{verb.at}.A_log"].float(), ops.weights[f"{verb.at}.dt_bias"].float()
    decay = (-rate.exp() * F.softplus(a.float() + bias)).transpose(1, 2)
    share = b.float().sigmoid().transpose(1, 2)
    state = ops.past(layer, RECURRENT)
    if state is None:
        state = value.new_zeros(value.shape[0], verb.value_heads, verb.key_size, verb.value_size)
    rule = _step if value.shape[2] == 1 else _chunks
    out, state = rule(query * verb.key_size**-0.5, key, value, decay, share, state)
    ops.keep(layer, RECURRENT, state)
    return out.transpose(1, 2).flatten(2).to(mixed.dtype)


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPS)


def _step(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, share: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """One token: query, key, value `[B, H, 1, D]`, decay (a logarithm) and share `[B, H, 1]`, state `[B, H, D_k, D_v]`."""
    state = state * decay.exp().unsqueeze(-1)
    change = (value - key @ state) * share.unsqueeze(-1)
    state = state + key.transpose(-1, -2) @ change
    return query @ state, state


def _chunks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, share: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Tokens in chunks (Yang et al. 2024, section 3.3): what the tokens of one change for each other is a triangular system."""
    tokens = value.shape[2]
    size = min(_CHUNK, tokens)
    missing = -tokens % size
    query, key, value = (F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, size)) for x in (query, key, value))
    decay, share = (F.pad(x, (0, missing)).unflatten(2, (-1, size)) for x in (decay, share))
    total = decay.cumsum(-1)  # since the chunk began, [B, H, chunks, size]
    later = torch.ones(size, size, dtype=torch.bool, device=value.device).triu(1)
    between = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    weighed = key * share.unsqueeze(-1)
    system = weighed @ key.transpose(-1, -2) * between
    wanted = torch.cat([value * share.unsqueeze(-1), weighed * total.exp().unsqueeze(-1)], -1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    fresh, known = solved.split((value.shape[-1], key.shape[-1]), -1)
    inside = query @ key.transpose(-1, -2) * between
    asked, kept = query * total.exp().unsqueeze(-1), key * (total[..., -1:] - total).exp().unsqueeze(-1)
    outs = []
    for chunk in range(value.shape[2]):
        change = fresh[:, :, chunk] - known[:, :, chunk] @ state
        outs.append(asked[:, :, chunk] @ state + inside[:, :, chunk] @ change)
        held = state * total[:, :, chunk, -1].exp()[..., None, None]
        state = held + kept[:, :, chunk].transpose(-1, -2) @ change
    return torch.cat(outs, 2)[:, :, :tokens], state
