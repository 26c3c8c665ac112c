"""`gated_delta_rule` in torch: a prompt in chunks of tokens, with matrix products inside a chunk; a step as it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ovround.models.parts.gated_delta_net import NORM_EPS, RECURRENT, GatedDeltaRule
from ovround.models.torch_ops import TorchOps

CHUNK = 64  # tokens
Solve = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""`solve(system, wanted)`: x with system x = wanted, of whose `system` only what is below the diagonal, all ones, is read."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """query and key `[B, H, T, D_k]`, value `[B, H, T, D_v]`, decay, as a logarithm, and share `[B, H, T]`."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    decay: torch.Tensor
    share: torch.Tensor


def compute(ops: TorchOps, verb: GatedDeltaRule, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """query, key and value side by side, a and b -> `[B, T, H_v * D_v]`; float32 inside, whatever the weights are."""
    state = ops.past(layer, RECURRENT)
    if state is None:
        shape = (len(inputs[0]), verb.value_heads, verb.key_size, verb.value_size)
        state = inputs[0].new_zeros(shape, dtype=torch.float32)
    out, state = delta_rule(ops, verb, inputs, state, _solved)
    ops.keep(layer, RECURRENT, state)
    return out


def delta_rule(
    ops: TorchOps, verb: GatedDeltaRule, inputs: Sequence[torch.Tensor], state: torch.Tensor, solve: Solve,
    real: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Outputs `[B, T, H_v * D_v]` and the state after the tokens, which those that are not `real` `[B, T]` leave as it is."""
    mixed, a, b = inputs
    query, key, value = mixed.float().split(verb.widths, -1)
    repeats = verb.value_heads // verb.key_heads
    query, key = (_unit(heads.unflatten(-1, (verb.key_heads, -1))) for heads in (query, key))
    query, key = (heads.repeat_interleave(repeats, 2).transpose(1, 2) for heads in (query, key))
    value = value.unflatten(-1, (verb.value_heads, -1)).transpose(1, 2)
    rate, bias = ops.weights[f"{verb.at}.A_log"].float(), ops.weights[f"{verb.at}.dt_bias"].float()
    decay, share = -rate.exp() * F.softplus(a.float() + bias), b.float().sigmoid()
    if real is not None:
        decay, share = decay * real.unsqueeze(-1), share * real.unsqueeze(-1)
    tokens = Tokens(query * verb.key_size**-0.5, key, value, decay.transpose(1, 2), share.transpose(1, 2))
    out, state = _step(tokens, state) if mixed.shape[1] == 1 else _chunks(tokens, state, solve)
    return out.transpose(1, 2).flatten(2).to(mixed.dtype), state


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPS)


def _solved(system: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    x: torch.Tensor = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    return x


def _step(token: Tokens, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output `[B, H, 1, D_v]` of one token, and the state after it."""
    state = state * token.decay.exp().unsqueeze(-1)
    change = (token.value - token.key @ state) * token.share.unsqueeze(-1)
    state = state + token.key.transpose(-1, -2) @ change
    return token.query @ state, state


def _chunks(tokens: Tokens, state: torch.Tensor, solve: Solve) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens in chunks (Yang et al. 2024, section 3.3): what the tokens of one change for each other is a triangular system."""
    count = tokens.value.shape[2]
    size = min(CHUNK, count)
    missing = -count % size
    wide, narrow = (tokens.query, tokens.key, tokens.value), (tokens.decay, tokens.share)
    query, key, value = (F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, size)) for x in wide)
    decay, share = (F.pad(x, (0, missing)).unflatten(2, (-1, size)) for x in narrow)
    total = decay.cumsum(-1)  # since the chunk began, [B, H, chunks, size]
    later = torch.ones(size, size, dtype=torch.bool, device=value.device).triu(1)
    between = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    weighed = key * share.unsqueeze(-1)
    system = weighed @ key.transpose(-1, -2) * between
    wanted = torch.cat([value * share.unsqueeze(-1), weighed * total.exp().unsqueeze(-1)], -1)
    fresh, known = solve(system, wanted).split((value.shape[-1], key.shape[-1]), -1)
    inside = query @ key.transpose(-1, -2) * between
    asked, kept = query * total.exp().unsqueeze(-1), key * (total[..., -1:] - total).exp().unsqueeze(-1)
    outs = []
    for chunk in range(value.shape[2]):
        change = fresh[:, :, chunk] - known[:, :, chunk] @ state
        outs.append(asked[:, :, chunk] @ state + inside[:, :, chunk] @ change)
        held = state * total[:, :, chunk, -1].exp()[..., None, None]
        state = held + kept[:, :, chunk].transpose(-1, -2) @ change
    return torch.cat(outs, 2)[:, :, :count], state
