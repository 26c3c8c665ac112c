"""The protocol that a model is written against, once, and that every target interprets.

A model calls these verbs in order; torch computes them (`torch_ops.py`), the exporters emit nodes for them
(`ovround.exporters.onnx.ops`, `ovround.exporters.openvino.ops`). It is coarse on purpose: a verb is what an engine fuses.

`at` is the name of a module in the checkpoint, `model.layers.0.mlp.up_proj`; its tensors are `{at}.weight`, `{at}.bias`.
Shapes: B batch, T tokens, K and N features in and out, H query heads, H_kv key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from ovround.models.rope import Rope

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attention:
    """What one attention layer computes besides its projections: causal softmax(q k^T * scale) v, rotated by `rope`."""

    num_heads: int
    num_key_value_heads: int
    head_dim: int
    scale: float
    rope: Rope


class Ops(Protocol[T]):
    """About a dozen verbs over one tensor type; activations are `[B, T, features]` throughout."""

    def embedding(self, ids: T, at: str) -> T:
        """Token ids `[B, T]` to rows `[B, T, K]` of `{at}.weight` `[V, K]`."""
        ...

    def linear(self, x: T, at: str) -> T:
        """`[B, T, K]` times the transpose of `{at}.weight` `[N, K]`, plus `{at}.bias` `[N]` where there is one: `[B, T, N]`."""
        ...

    def rms_norm(self, x: T, at: str, eps: float) -> T:
        """`[B, T, K]` over its root mean square along K, times `{at}.weight` `[K]`."""
        ...

    def attention(self, q: T, k: T, v: T, layer: int, spec: Attention) -> T:
        """`[B, T, H*D]`, `[B, T, H_kv*D]` twice -> `[B, T, H*D]`: causal attention of the layer.

        Rotates q and k, and appends k and v to the cache of `layer`.
        """
        ...

    def silu(self, x: T) -> T:
        """x * sigmoid(x), any shape."""
        ...

    def add(self, x: T, y: T) -> T:
        """Element by element, equal shapes."""
        ...

    def mul(self, x: T, y: T) -> T:
        """Element by element, equal shapes."""
        ...
