"""Attention: query, key and value projections, the verb `attention` with its key/value cache, and the output projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ovround.errors import ArchitectureError
from ovround.models.ops import Attention, Ops, T
from ovround.models.parts.norms import HeadNorm
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State


@dataclass(frozen=True, slots=True)
class PositionScale:
    """The verb: `[B, T, K]` of each token at position p times 1 + beta * log(1 + floor(p / period)).

    Llama 4's temperature of attention: queries far beyond the trained length attend more sharply.
    """

    beta: float
    period: int
    name: str = "position_scale"

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ArchitectureError(f"original_max_position_embeddings is {self.period}; 1 or more is needed")


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """A mixer; `spec` says what the verb computes.

    `query_key_norm` is RMS with `norm_eps`, over each head or over all heads of a query or key at once; `layer` is a layer norm
    over each head, with weights for all heads and no bias. `clip` then bounds the values of queries, keys and values.
    """

    hidden_size: int
    spec: Attention
    bias: bool = False
    output_bias: bool = False
    query_key_norm: Literal["head", "all", "layer"] | None = None
    norm_eps: float = 1e-6
    clip: float | None = None
    query_scale: PositionScale | None = None
    name: str = "self_attn"

    def __post_init__(self) -> None:
        heads, kv_heads = self.spec.num_heads, self.spec.num_key_value_heads
        check_size("num_attention_heads", heads)
        check_size("num_key_value_heads", kv_heads)
        check_size("head_dim", self.spec.head_dim)
        if heads % kv_heads:
            raise ArchitectureError(f"{heads} attention heads are no multiple of {kv_heads} key/value heads")
        if self.spec.sliding_window is not None and self.spec.sliding_window < 1:
            raise ArchitectureError(f"sliding_window is {self.spec.sliding_window}; 1 or more is needed")
        if self.clip is not None and not self.clip > 0:
            raise ArchitectureError(f"clip_qkv is {self.clip}; a number above 0 is needed")

    @property
    def inner_size(self) -> int:
        return (self.spec.num_heads + 2 * self.spec.num_key_value_heads) * self.spec.head_dim

    def floats(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        size, kind = self.spec.head_dim, "head" if self.spec.rotated_norm_eps is not None else self.query_key_norm
        if kind is not None:
            for name, heads in (("q_norm", self.spec.num_heads), ("k_norm", self.spec.num_key_value_heads)):
                shapes[f"{name}.weight"] = {"head": (size,), "all": (size * heads,), "layer": (heads, size)}[kind]
        return shapes | ({"sinks": (self.spec.num_heads,)} if self.spec.sinks else {})

    def linears(self) -> tuple[Linear, ...]:
        hidden, spec = self.hidden_size, self.spec
        queries, keys = spec.num_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
        sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        qkv = (Linear(name, size, hidden, self.bias, fused="qkv_proj") for name, size in sizes.items())
        return (*qkv, Linear("o_proj", hidden, queries, self.output_bias))

    def states(self) -> tuple[State, ...]:
        shape = (self.spec.num_key_value_heads, 0, self.spec.head_dim)
        return (State("key", shape, grows=1), State("value", shape, grows=1))

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        q, k, v = (ops.linear(x, f"{at}.{name}_proj") for name in "qkv")
        q = self._normed(ops, q, f"{at}.q_norm", self.spec.num_heads, layer)
        k = self._normed(ops, k, f"{at}.k_norm", self.spec.num_key_value_heads, layer)
        q, k, v = (self._clipped(ops, heads) for heads in (q, k, v))
        if self.query_scale is not None:  # before the rotation, with which a factor commutes
            q = ops.call(self.query_scale, (q,), layer)
        return ops.linear(ops.attention(q, k, v, layer, self.spec), f"{at}.o_proj")

    def _clipped(self, ops: Ops[T], x: T) -> T:
        if self.clip is None:
            return x
        return ops.scale(ops.activation(ops.scale(x, 1 / self.clip), "hardtanh"), self.clip)

    def _normed(self, ops: Ops[T], x: T, at: str, heads: int, layer: int) -> T:
        """A query or key `[B, T, heads * D]` through its norm, where it has one."""
        if self.query_key_norm is None:
            return x
        if self.query_key_norm == "layer":
            return ops.call(HeadNorm("layer", heads, self.spec.head_dim, self.norm_eps, at), (x,), layer)
        return ops.rms_norm(x, at, self.norm_eps, heads if self.query_key_norm == "head" else 1)
