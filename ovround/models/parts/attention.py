"""Attention: query, key and value projections, the verb `attention` with its key/value cache, and the output projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ovround.errors import ArchitectureError
from ovround.models.ops import Attention, Ops, T
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State

_GATE = "output_gate_proj"


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """A mixer; `spec` says what the verb computes.

    `query_key_norm` is RMS with `norm_eps`, over each head or over all heads of a query or key at once. With `output_gate`
    what the verb gives is multiplied by the sigmoid of another projection, as wide as the query.
    """

    hidden_size: int
    spec: Attention
    bias: bool = False
    output_bias: bool = False
    query_key_norm: Literal["head", "all"] | None = None
    norm_eps: float = 1e-6
    output_gate: bool = False
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

    @property
    def inner_size(self) -> int:
        gates = self.spec.num_heads if self.output_gate else 0
        return (self.spec.num_heads + 2 * self.spec.num_key_value_heads + gates) * self.spec.head_dim

    def floats(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        if self.query_key_norm is not None:
            for name, heads in (("q_norm", self.spec.num_heads), ("k_norm", self.spec.num_key_value_heads)):
                shapes[f"{name}.weight"] = (self.spec.head_dim * (1 if self.query_key_norm == "head" else heads),)
        return shapes | ({"sinks": (self.spec.num_heads,)} if self.spec.sinks else {})

    def linears(self) -> tuple[Linear, ...]:
        hidden, spec = self.hidden_size, self.spec
        queries, keys = spec.num_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
        sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys} | ({_GATE: queries} if self.output_gate else {})
        qkv = (Linear(name, size, hidden, self.bias, fused="qkv_proj") for name, size in sizes.items())
        return (*qkv, Linear("o_proj", hidden, queries, self.output_bias))

    def states(self) -> tuple[State, ...]:
        shape = (self.spec.num_key_value_heads, 0, self.spec.head_dim)
        return (State("key", shape, grows=1), State("value", shape, grows=1))

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        q, k, v = (ops.linear(x, f"{at}.{name}_proj") for name in "qkv")
        if self.query_key_norm is not None:
            by_head = self.query_key_norm == "head"
            q = ops.rms_norm(q, f"{at}.q_norm", self.norm_eps, self.spec.num_heads if by_head else 1)
            k = ops.rms_norm(k, f"{at}.k_norm", self.norm_eps, self.spec.num_key_value_heads if by_head else 1)
        out = ops.attention(q, k, v, layer, self.spec)
        if self.output_gate:
            out = ops.mul(out, ops.activation(ops.linear(x, f"{at}.{_GATE}"), "sigmoid"))
        return ops.linear(out, f"{at}.o_proj")
