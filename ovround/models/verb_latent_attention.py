"""`latent_attention` in torch: keys and values computed for each head, so that their projections are linear layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.parts.latent_attention import LatentHeads
from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: LatentHeads, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """Queries `[B, T, H * (N + P)]`, latent `[B, T, R]`, key `[B, T, P]` -> `[B, T, H * V]`."""
    at, heads = f"model.layers.{layer}.self_attn", verb.num_heads
    query, latent, rotated = inputs
    query = query.unflatten(-1, (heads, -1))[..., verb.query_order()]
    shared = rotated[..., verb.rotated_order()].unsqueeze(2).expand(-1, -1, heads, -1)
    own = ops.linear(latent, f"{at}.k_b_proj").unflatten(-1, (heads, -1))
    key = torch.cat([shared.to(own.dtype), own], dim=-1)
    value = ops.linear(latent, f"{at}.v_b_proj")
    return ops.attention(query.flatten(2), key.flatten(2), value, layer, verb.expanded)
