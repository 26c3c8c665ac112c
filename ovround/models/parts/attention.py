"""Attention: query, key and value projections, the verb `attention` with its key/value cache, and the output projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ovround.errors import ArchitectureError
from ovround.models.ops import Attention, Ops, T
from ovround.models.parts.norms import HeadNorm
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State

_GATE = "output_gate_proj"


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

    `query_key_norm` is RMS with `norm_eps`, over each head or over all heads of a query or key at once; `plain` is over each
    head, without weights; `layer` is a layer norm over each head, with weights for all heads and no bias. `clip` then bounds
    the values of queries, keys and values. With `output_gate` what the verb gives is multiplied by the sigmoid of another
    projection, as wide as the query, which without `gate_bias` never has a bias. With `value_norm` each head of a value is over
    its root mean square; with `key_is_value` a value is the key before its norm. A layer that reads the cache of another
    (`Attention.cache_of`) has queries alone.
    """

    hidden_size: int
    spec: Attention
    bias: bool = False
    output_bias: bool = False
    query_key_norm: Literal["head", "all", "layer", "plain"] | None = None
    norm_eps: float = 1e-6
    output_gate: bool = False
    gate_bias: bool = True
    value_norm: bool = False
    key_is_value: bool = False
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
        keys_and_values = 0 if self.spec.cache_of is not None else 2 * self.spec.num_key_value_heads
        gates = self.spec.num_heads if self.output_gate else 0
        return (self.spec.num_heads + keys_and_values + gates) * self.spec.head_dim

    def floats(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        size, kind = self.spec.head_dim, "head" if self.spec.rotated_norm_eps is not None else self.query_key_norm
        if kind not in (None, "plain"):
            norms = (("q_norm", self.spec.num_heads), ("k_norm", self.spec.num_key_value_heads))
            for name, heads in norms if self.spec.cache_of is None else norms[:1]:
                shapes[f"{name}.weight"] = {"head": (size,), "all": (size * heads,), "layer": (heads, size)}[kind]
        return shapes | ({"sinks": (self.spec.num_heads,)} if self.spec.sinks else {})

    def linears(self) -> tuple[Linear, ...]:
        hidden, spec = self.hidden_size, self.spec
        queries, keys = spec.num_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
        sizes = {"q_proj": queries}
        if spec.cache_of is None:
            sizes |= {"k_proj": keys} if self.key_is_value else {"k_proj": keys, "v_proj": keys}
        if self.output_gate:
            sizes[_GATE] = queries
        biased = {name: self.bias and (self.gate_bias or name != _GATE) for name in sizes}
        # what is joined has biases throughout, or none
        qkv = (
            Linear(name, size, hidden, biased[name], fused="qkv_proj" if biased[name] == self.bias else "")
            for name, size in sizes.items()
        )
        return (*qkv, Linear("o_proj", hidden, queries, self.output_bias))

    def states(self) -> tuple[State, ...]:
        if self.spec.cache_of is not None:
            return ()
        shape = (self.spec.num_key_value_heads, 0, self.spec.head_dim)
        return (State("key", shape, grows=1), State("value", shape, grows=1))

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        q, k, v = ops.linear(x, f"{at}.q_proj"), None, None
        q = self._clipped(ops, self._normed(ops, q, f"{at}.q_norm", self.spec.num_heads, layer))
        if self.query_scale is not None:  # before the rotation, with which a factor commutes
            q = ops.call(self.query_scale, (q,), layer)
        if self.spec.cache_of is None:
            k, v = self._key_and_value(ops, x, at, layer)
        out = ops.attention(q, k, v, layer, self.spec)
        if self.output_gate:
            out = ops.mul(out, ops.activation(ops.linear(x, f"{at}.{_GATE}"), "sigmoid"))
        return ops.linear(out, f"{at}.o_proj")

    def _key_and_value(self, ops: Ops[T], x: T, at: str, layer: int) -> tuple[T, T]:
        """Key and value of the layer's own, `[B, T, H_kv*D]` each."""
        k, heads = ops.linear(x, f"{at}.k_proj"), self.spec.num_key_value_heads
        v = k if self.key_is_value else ops.linear(x, f"{at}.v_proj")
        k = self._normed(ops, k, f"{at}.k_norm", heads, layer)
        if self.value_norm:
            v = ops.call(HeadNorm("rms", heads, self.spec.head_dim, self.norm_eps), (v,), layer)
        return self._clipped(ops, k), self._clipped(ops, v)

    def _clipped(self, ops: Ops[T], x: T) -> T:
        if self.clip is None:
            return x
        return ops.scale(ops.activation(ops.scale(x, 1 / self.clip), "hardtanh"), self.clip)

    def _normed(self, ops: Ops[T], x: T, at: str, heads: int, layer: int) -> T:
        """A query or key `[B, T, heads * D]` through its norm, where it has one."""
        if self.query_key_norm is None:
            return x
        if self.query_key_norm in ("layer", "plain"):
            rms = self.query_key_norm == "plain"
            norm = HeadNorm("rms" if rms else "layer", heads, self.spec.head_dim, self.norm_eps, "" if rms else at)
            return ops.call(norm, (x,), layer)
        return ops.rms_norm(x, at, self.norm_eps, heads if self.query_key_norm == "head" else 1)
