"""`latent_attention` in fixed shapes: projections absorbed into queries and outputs, one key and value for all heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.parts.latent_attention import LatentHeads
from ovround.runtime.hpu.static_ops import StaticOps


def compute(ops: StaticOps, verb: LatentHeads, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """Queries `[B, T, H * (N + P)]`, latent `[B, T, R]`, key `[B, T, P]` -> `[B, T, H * V]`.

    A value is the key before its rotation; what the rotated features come to is cut off.
    """
    at, heads, dim = f"model.layers.{layer}.self_attn", verb.num_heads, verb.rope.dim
    query, latent, rotated = inputs
    shared = torch.cat([_ordered(rotated, verb.rotated_order()), latent], dim=-1)
    query = _ordered(query.unflatten(-1, (heads, -1)), verb.query_order())
    turning, own = query.split((dim, verb.nope_dim), dim=-1)
    keys = ops.matrix(f"{at}.k_b_proj").unflatten(0, (heads, -1))  # [H, N, R]
    query = torch.cat([turning, (own.transpose(1, 2) @ keys).transpose(1, 2)], dim=-1)
    out = ops.attention(query.flatten(2), shared, shared, layer, verb.attention).unflatten(-1, (heads, -1))
    values = ops.matrix(f"{at}.v_b_proj").unflatten(0, (heads, -1))  # [H, V, R]
    expanded: torch.Tensor = out[..., dim:].transpose(1, 2) @ values.transpose(1, 2)
    return expanded.transpose(1, 2).flatten(2)


def _ordered(x: torch.Tensor, order: list[int]) -> torch.Tensor:
    """The last axis of `x` in this order."""
    return x.index_select(-1, torch.tensor(order, dtype=torch.int64, device=x.device))
