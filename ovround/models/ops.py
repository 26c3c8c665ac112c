"""The protocol that a model is written against, once. Every backend implements it.

A model calls these verbs in order; torch computes them (`torch_ops.py`), the exporters emit nodes for them
(`ovround.exporters.onnx.ops`, `ovround.exporters.openvino.ops`). It is coarse on purpose: a verb is what an engine fuses.

`at` is the name of a module as the decoder calls it, `model.layers.0.mlp.up_proj`; its tensors are `{at}.weight`,
`{at}.bias`. Shapes: B batch, T tokens, K and N features in and out, H query heads, H_kv key/value heads, D head size,
V vocabulary, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from ovround.models.rope import Rope
from ovround.models.verbs import Verb

T = TypeVar("T")
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "hardtanh", "sigmoid"]


@dataclass(frozen=True, slots=True)
class Attention:
    """What one attention layer computes besides its projections: causal softmax(q k^T * scale) v, rotated by `rope`.

    `sliding_window` is the number of tokens that a query sees, its own included. `softcap` bounds the scores by
    cap * tanh(score / cap). `alibi` adds a head's slope times the key's distance (Press et al. 2022). With `sinks` each head
    has a score of its own, the tensor `{layer's self_attn}.sinks` `[H]`, which takes part in the softmax and has no value.
    With `cache_of` the layer has no keys and values: it reads those of that earlier layer, which is marked as `shared`.
    With `rotated_norm_eps` each head of a query or key goes through an RMS norm after its rotation, by the tensors `q_norm`
    and `k_norm` `[D]` of the layer's self_attn.
    """

    num_heads: int
    num_key_value_heads: int
    head_dim: int
    scale: float
    rope: Rope | None = None
    sliding_window: int | None = None
    softcap: float | None = None
    alibi: bool = False
    sinks: bool = False
    cache_of: int | None = None
    shared: bool = False
    rotated_norm_eps: float | None = None

    def __post_init__(self) -> None:
        if self.rotated_norm_eps is not None and self.rope is not None and self.rope.interleaved:
            raise ValueError("norms after a rotation of interleaved pairs: backends put these in another order")

    def slopes(self) -> tuple[float, ...]:
        """ALiBi's factor of each head: powers of 2^(-8/n), n the largest power of two within H, then those between them."""
        power = 1 << (self.num_heads.bit_length() - 1)
        first = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
        between = [2.0 ** (-4 * (2 * head + 1) / power) for head in range(self.num_heads - power)]
        return (*first, *between)


def rotated_norms(layer: int) -> tuple[str, str]:
    """The modules that norm rotated queries and keys, where a layer's attention has them."""
    return f"model.layers.{layer}.self_attn.q_norm", f"model.layers.{layer}.self_attn.k_norm"


def sinks_name(layer: int) -> str:
    """The tensor with the scores that stand for no token, where a layer's attention has them."""
    return f"model.layers.{layer}.self_attn.sinks"


def shared_name(layer: int, state: str) -> str:
    """The name under which later layers read the keys or values of a layer that is `Attention.shared`; see `Ops.share`."""
    return f"{layer}.{state}"


ExpertWeights = Literal["probability", "share", "sparsemixer"]


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """gpt-oss's gate g and up u: g' = min(g, limit), g' * sigmoid(alpha * g') * (1 + min(max(u, -limit), limit))."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class Routing:
    """DeepSeek's choice of experts (DeepSeek-V3, section 2.1.2), and what their weights are multiplied by in the end.

    The logits become scores by a softmax or a sigmoid. With `biased` the tensor `{at}.gate.e_score_correction_bias` `[E]`
    is added to them for the choice, not for the weights. Experts lie in `groups` of equal size, of which only `top_groups`
    are chosen from: those with the highest score, or the highest sum of two scores. A sum of chosen scores that weights are
    shares of counts as `least_sum` at least.
    """

    scores: Literal["softmax", "sigmoid"] = "sigmoid"
    biased: bool = True
    groups: int = 1
    top_groups: int = 1
    group_score: Literal["highest", "two"] = "two"
    least_sum: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Experts:
    """A layer of gated MLPs of which each token takes `top_k` of `count`, and how the router's logits weigh those.

    `probability`: a softmax over all experts; `share`: one over the chosen ones alone; `sparsemixer` (Liu et al. 2023, at
    inference): one expert after the other, each weighed by a softmax over those that are left and whose logit z is within
    `tolerance` of the highest m, (m - z) / max(|z|, m). With `clamped`, gate and up are one projection, row by row in turn.
    With `routing` the weights are the chosen scores or their shares. With `scaled` an expert's weight is multiplied by its number
    in the tensor `{router}.scale` `[E]`. Without `gated` an expert is down(activation(up(x))).
    """

    count: int
    top_k: int
    intermediate_size: int
    weights: ExpertWeights = "probability"
    activation: Activation = "silu"
    tolerance: float = 0.0
    clamped: ClampedGate | None = None
    routing: Routing | None = None
    scaled: bool = False
    gated: bool = True


class Ops(Protocol[T]):
    """About a dozen verbs over one tensor type, and `call` for others; activations are `[B, T, features]` throughout."""

    def embedding(self, ids: T, at: str) -> T:
        """Token ids `[B, T]` to rows `[B, T, K]` of `{at}.weight` `[V, K]`."""
        ...

    def position_embedding(self, ids: T, at: str) -> T:
        """For the tokens `ids` `[B, T]`, the rows `[B, T, K]` of `{at}.weight` at their positions, a row's first token at 0."""
        ...

    def linear(self, x: T, at: str) -> T:
        """`[B, T, K]` times the transpose of `{at}.weight` `[N, K]`, plus `{at}.bias` `[N]` where there is one: `[B, T, N]`."""
        ...

    def rms_norm(self, x: T, at: str, eps: float, heads: int = 1) -> T:
        """`[B, T, K]` over its root mean square, times `{at}.weight`; each of `heads` equal parts of K by itself."""
        ...

    def layer_norm(self, x: T, at: str, eps: float) -> T:
        """`[B, T, K]` less its mean over its deviation, times `{at}.weight` `[K]`, plus `{at}.bias` where there is one."""
        ...

    def attention(self, q: T, k: T | None, v: T | None, layer: int, spec: Attention) -> T:
        """`[B, T, H*D]`, `[B, T, H_kv*D]` twice -> `[B, T, H*D]`: causal attention of the layer.

        Rotates q and k, and appends k and v to the cache of `layer`; k and v are None where it reads another's.
        """
        ...

    def experts(self, x: T, at: str, spec: Experts, routed: T | None = None) -> T:
        """`[B, T, K]` -> the same: the weighted sum of the outputs of each token's experts.

        The router is `{at}.gate.weight` `[E, R]`, with or without a bias, and reads `routed` `[B, T, R]`, or else x; expert e
        is `{at}.experts.{e}.gate_proj`, `.up_proj`, `.down_proj`, without a gate the last two, or with `clamped`
        `.gate_up_proj`, `.down_proj`.
        """
        ...

    def share(self, name: str, value: T) -> None:
        """Leave a value of this step for later blocks."""
        ...

    def shared(self, name: str) -> T:
        """What the embedding or an earlier block has left under `name` in this step."""
        ...

    def call(self, verb: Verb, inputs: Sequence[T], layer: int) -> T:
        """A verb that only some parts need, with the state of `layer`; see `ovround.models.verbs`.

        Raises ArchitectureError where the backend does not have it.
        """
        ...

    def activation(self, x: T, kind: Activation) -> T:
        """x * sigmoid(x), x * normal CDF(x) or its approximation by tanh, max(x, 0), its square, x bounded by -1 and 1,
        1 / (1 + exp(-x)); any shape.
        """
        ...

    def softcap(self, x: T, cap: float) -> T:
        """cap * tanh(x / cap), any shape."""
        ...

    def scale(self, x: T, factor: float) -> T:
        """x * factor, any shape."""
        ...

    def add(self, x: T, y: T) -> T:
        """Element by element, equal shapes."""
        ...

    def mul(self, x: T, y: T) -> T:
        """Element by element, equal shapes; or x has one value a token, `[B, T, 1]`."""
        ...
