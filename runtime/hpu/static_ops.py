"""The verbs of `ovround.models.ops` in fixed shapes, without a look at a value on the host.

Rows stand on the left of their padding. Positions are a tensor; keys and values are written into the cache by index, and
queries see the whole room of their row, less the places after them. So one graph serves every prompt of a bucket and every
step of an answer. Softmax, norms and rotations are computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ovround.models.ops import Attention, Experts, rotated_norms, sinks_name
from ovround.models.rope import Rope
from ovround.models.torch_ops import TorchOps
from ovround.runtime.hpu.operator import Convert
from ovround.runtime.hpu.weights import Bytes, Stored, TableWords


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where a step's tokens go: positions `[B, T]`, their places in the cache `[B * T]`, and the longest text's length `[]`."""

    positions: torch.Tensor
    slots: torch.Tensor
    length: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Constants:
    """What one layer's attention multiplies by, on the device before the first step: `frequencies` `[dim / 2]` of its rope.

    Where they follow the length of the text, two: longrope's short and long ones, dynamic's and their exponents. `slopes` are
    ALiBi's, `[H_kv, repeat, 1, 1]`.
    """

    frequencies: tuple[torch.Tensor, ...] = ()
    slopes: torch.Tensor | None = None

    @classmethod
    def of(cls, spec: Attention, device: str) -> Constants:
        """Those of one layer."""

        def moved(values: object) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32).to(device)

        rope, frequencies = spec.rope, []
        if rope is not None:
            frequencies.append(rope.inverse_frequencies(1))
        if rope is not None and rope.follows_length:
            long = rope.variant == "longrope"
            beyond = rope.original_max_position_embeddings + 1
            frequencies.append(rope.inverse_frequencies(beyond) if long else rope.stretch_exponents())
        slopes = moved(spec.slopes()).view(spec.num_key_value_heads, -1, 1, 1) if spec.alibi else None
        return cls(tuple(moved(values.tolist()) for values in frequencies), slopes)

    def frequencies_at(self, rope: Rope, length: torch.Tensor) -> torch.Tensor:
        """Radians a position `[dim / 2]` in a text of `length` `[]` tokens, which only the device knows."""
        if not rope.follows_length:
            return self.frequencies[0]
        first, second = self.frequencies
        original = rope.original_max_position_embeddings
        if rope.variant == "longrope":
            return torch.where(length > original, second, first)
        stretch: torch.Tensor = 1 + rope.factor * (length.float() / original - 1).clamp(min=0)
        return first * stretch**second


@dataclass(frozen=True, slots=True, eq=False)
class LayerCache:
    """One layer's `states` by name as `Cache` shows them, `room` slots a row, and the layer's constants."""

    states: Mapping[str, torch.Tensor]
    room: int
    constants: Constants


class StaticOps(TorchOps):
    """`weights` in float and `packed` ones by module; `places` where positions matter, `cache` where a layer keeps state."""

    backend = "hpu"

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        packed: Mapping[str, Stored],
        convert: Convert,
        places: Places | None = None,
        cache: LayerCache | None = None,
    ) -> None:
        super().__init__(weights)
        self._packed, self._convert, self._places, self._cached = packed, convert, places, cache

    def embedding(self, ids: torch.Tensor, at: str) -> torch.Tensor:
        table = self._packed.get(at)
        if isinstance(table, TableWords | Bytes):
            return table.rows(ids, self._convert)
        return F.embedding(ids, self.weights[f"{at}.weight"])

    def position_embedding(self, ids: torch.Tensor, at: str) -> torch.Tensor:
        assert self._places is not None  # noqa: S101  the caller knows which verbs a region has
        table = self.weights[f"{at}.weight"]
        return F.embedding(self._places.positions.clamp(max=len(table) - 1), table)

    def positions(self) -> torch.Tensor:
        """The position of each token, int32 `[B, T]`."""
        assert self._places is not None  # noqa: S101  as above
        return self._places.positions

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        bias, packed = self.weights.get(f"{at}.bias"), self._packed.get(at)
        if packed is None:
            return F.linear(x, self.weights[f"{at}.weight"], bias)
        out = packed.apply(x, self._convert)
        return out if bias is None else out + bias

    def matrix(self, at: str) -> torch.Tensor:
        """`{at}.weight` decoded, `[N, K]`, for what is no product of rows."""
        packed = self._packed.get(at)
        if packed is None:
            return self.weights[f"{at}.weight"]
        unit = torch.eye(packed.inputs, dtype=packed.scales.dtype, device=packed.scales.device)
        decoded: torch.Tensor = packed.apply(unit, self._convert).T
        return decoded

    def rms_norm(self, x: torch.Tensor, at: str, eps: float, heads: int = 1) -> torch.Tensor:
        parts = x.unflatten(-1, (heads, -1)).float()
        normed = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + eps)
        scaled: torch.Tensor = (normed.to(x.dtype) * self.weights[f"{at}.weight"]).flatten(-2)
        return scaled

    def layer_norm(self, x: torch.Tensor, at: str, eps: float) -> torch.Tensor:
        normed = F.layer_norm(x.float(), (x.shape[-1],), eps=eps).to(x.dtype) * self.weights[f"{at}.weight"]
        bias = self.weights.get(f"{at}.bias")
        return normed if bias is None else normed + bias

    def attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, spec: Attention) -> torch.Tensor:
        assert self._places is not None and self._cached is not None  # noqa: S101, PT018  as above
        places, cache = self._places, self._cached
        batch, tokens, _ = q.shape
        query = q.unflatten(-1, (spec.num_heads, spec.head_dim))
        key, value = (heads.unflatten(-1, (spec.num_key_value_heads, spec.head_dim)) for heads in (k, v))
        if spec.rope is not None:
            cos, sin = _angles(spec.rope, cache.constants, places)
            query, key = (_rotated(heads, cos, sin, spec.rope.interleaved) for heads in (query, key))
        if spec.rotated_norm_eps is not None:
            query, key = (
                self.rms_norm(heads, at, spec.rotated_norm_eps)
                for heads, at in zip((query, key), rotated_norms(layer), strict=True)
            )
        keys, values = cache.states["key"], cache.states["value"]
        keys.index_copy_(0, places.slots, key.flatten(0, 1))
        values.index_copy_(0, places.slots, value.flatten(0, 1))
        seen = keys.unflatten(0, (batch, cache.room)).permute(0, 2, 3, 1)  # [B, H_kv, D, S]
        taken = values.unflatten(0, (batch, cache.room)).permute(0, 2, 1, 3)  # [B, H_kv, S, D]
        # Query heads that share a key head are rows of one product.
        shared, repeat = spec.num_key_value_heads, spec.num_heads // spec.num_key_value_heads
        rows = query.unflatten(2, (shared, repeat)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, H_kv, repeat * T, D]
        scores = (rows @ seen).unflatten(2, (repeat, tokens)).float() * spec.scale
        if spec.softcap is not None:
            scores = (scores / spec.softcap).tanh() * spec.softcap
        scores = scores + _mask(spec, cache, places.positions)
        if spec.sinks:  # one more score a head, and no value for it
            sinks = self.weights[sinks_name(layer)].float().view(1, shared, repeat, 1, 1)
            shares = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], -1).softmax(-1)[..., : cache.room]
        else:
            shares = scores.softmax(-1)
        out = shares.to(q.dtype).flatten(2, 3) @ taken
        attended: torch.Tensor = out.unflatten(2, (repeat, tokens)).permute(0, 3, 1, 2, 4).reshape(batch, tokens, -1)
        return attended

    def experts(self, x: torch.Tensor, at: str, spec: Experts) -> torch.Tensor:
        """Every expert on every token: which ones a token chose is known on the device alone."""
        weights, chosen = self.routed(x, at, spec)
        out = torch.zeros_like(x)
        for expert in range(spec.count):
            inside = f"{at}.experts.{expert}"
            down = self.linear(self._gated(x, inside, spec), f"{inside}.down_proj")
            share = torch.where(chosen == expert, weights, torch.zeros_like(weights)).sum(-1, keepdim=True)
            out = out + down * share
        return out


def _mask(spec: Attention, cache: LayerCache, positions: torch.Tensor) -> torch.Tensor:
    """What is added to the scores `[B, H_kv, repeat, T, S]`: -inf where a query may not look, and ALiBi."""
    columns = torch.arange(cache.room, dtype=positions.dtype, device=positions.device)
    distances = columns - positions.unsqueeze(-1)  # [B, T, S], at most 0 where a query may look
    allowed = distances <= 0
    if spec.sliding_window is not None:
        allowed = allowed & (distances > -spec.sliding_window)
    mask = torch.where(allowed, 0.0, -torch.inf).unsqueeze(1).unsqueeze(1)
    slopes = cache.constants.slopes
    return mask if slopes is None else mask + slopes * distances.float().unsqueeze(1).unsqueeze(1)


def _angles(rope: Rope, constants: Constants, places: Places) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin float32 `[B, T, 1, dim / 2]` of the positions; bfloat16 would lose large ones."""
    angles = places.positions.float().unsqueeze(-1).unsqueeze(-1) * constants.frequencies_at(rope, places.length)
    return angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """`[B, T, H, D]` turned by cos and sin `[B, T, 1, dim / 2]`: as `ovround.models.torch_ops.rotate`, in float32."""
    half, wide = cos.shape[-1], x.float()
    if interleaved:
        first, second, rest = wide[..., : 2 * half : 2], wide[..., 1 : 2 * half : 2], wide[..., 2 * half :]
        pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
        return torch.cat([pairs, rest], dim=-1).to(x.dtype)
    first, second, rest = wide.split((half, half, wide.shape[-1] - 2 * half), dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
    return turned.to(x.dtype)
