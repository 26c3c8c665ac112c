"""`Ops` computed by torch: to tune, to evaluate the unquantised model, and as the reference of the parity tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ovround.models.ops import Attention
from ovround.models.rope import Rope


class TorchOps:
    """Computes on the weights it is given, in their own floating-point type.

    Positions start at 0 for every row; `keep_cache` keeps keys and values so that the next call continues behind them.
    `matmul_dtype` is the type that linear layers multiply in (results return to the activations' type); None: no change.
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        keep_cache: bool = False,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        self.weights = weights
        self.keep_cache = keep_cache
        self.matmul_dtype = matmul_dtype
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._tables: dict[tuple[Rope, int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def embedding(self, ids: torch.Tensor, at: str) -> torch.Tensor:
        return F.embedding(ids, self.weights[f"{at}.weight"])

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        weight, bias = self.weights[f"{at}.weight"], self.weights.get(f"{at}.bias")
        if self.matmul_dtype is None:
            return F.linear(x, weight, bias)
        product = F.linear(x.to(self.matmul_dtype), weight.to(self.matmul_dtype)).to(x.dtype)
        return product if bias is None else product + bias

    def rms_norm(self, x: torch.Tensor, at: str, eps: float) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weights[f"{at}.weight"], eps)

    def attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, spec: Attention) -> torch.Tensor:
        batch, tokens, _ = q.shape
        query = q.view(batch, tokens, spec.num_heads, spec.head_dim).transpose(1, 2)
        key = k.view(batch, tokens, spec.num_key_value_heads, spec.head_dim).transpose(1, 2)
        value = v.view(batch, tokens, spec.num_key_value_heads, spec.head_dim).transpose(1, 2)
        past = self._cache[layer][0].shape[2] if layer in self._cache else 0
        cos, sin = self._rotation(spec.rope, past, tokens, q)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if past:
            key = torch.cat([self._cache[layer][0], key], dim=2)
            value = torch.cat([self._cache[layer][1], value], dim=2)
        if self.keep_cache:
            self._cache[layer] = (key, value)
        mask = None
        if past:
            mask = torch.ones(tokens, past + tokens, dtype=torch.bool, device=q.device).tril(past)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=spec.scale, enable_gqa=True
        )
        return out.transpose(1, 2).reshape(batch, tokens, -1)

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def mul(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * y

    def _rotation(self, rope: Rope, past: int, tokens: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin `[T, D / 2]` of positions past .. past + tokens."""
        at = (rope, past, tokens)
        if at not in self._tables:
            cos, sin = rope.tables(past + tokens)
            self._tables = {
                at: (
                    torch.from_numpy(cos[past:]).to(like.device, like.dtype),
                    torch.from_numpy(sin[past:]).to(like.device, like.dtype),
                )
            }
        return self._tables[at]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`[B, H, T, D]` turned by cos, sin `[T, D / 2]`: feature j with feature j + D / 2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
