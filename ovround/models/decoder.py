"""The decoder that families share: embedding, blocks of attention and MLP between norms, final norm, head.

A family file (`llama.py`) reads its config.json into a `DecoderConfig` and returns a `Decoder`; what its checkpoint calls
otherwise, a `Layout` says. The names used here, Llama's, are those of every target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from ovround.errors import ArchitectureError
from ovround.models.layout import BLOCKS, Layout
from ovround.models.ops import Activation, Attention, Experts, Ops, T
from ovround.tensors.tensor_source import TensorSource

EMBEDDING = "model.embed_tokens"
POSITIONS = "model.embed_positions"
EMBEDDING_NORM = "model.embed_layernorm"
NORM = "model.norm"
EXPERTS = "mlp.experts"
HEAD = "lm_head"
_EXPERT = re.compile(r"(.+\.experts)\.\d+\.")
_FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
# Far beyond any model; they keep a hostile config.json from asking for endless work before its tensors are looked at.
_LARGEST = {"num_hidden_layers": 10_000, "max_position_embeddings": 1 << 24}
_LARGEST_SIZE = (1 << 31) - 1
_MOST_EXPERTS = 4096
_BUFFERS = ("rotary_emb.inv_freq",)  # that transformers 4 used to save


@dataclass(frozen=True, slots=True)
class Norms:
    """The norms of a block by name, None where there is none.

    A `parallel` block gives its input to attention and MLP alike and adds both; without `before_mlp` they share the norm too.
    """

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None
    parallel: bool = False

    def names(self) -> tuple[str, ...]:
        """Those that there are, in the order in which they are computed."""
        every = (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        return tuple(name for name in every if name is not None)


PRE = Norms()
POST = Norms(None, "post_attention_layernorm", None, "post_feedforward_layernorm")
SANDWICH = Norms(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)
PARALLEL = Norms(parallel=True)
PARALLEL_SHARED = Norms(before_mlp=None, parallel=True)


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes and switches, under Hugging Face's names where it has one.

    Block i attends as `attention[i % len(attention)]` says. The `*_scale` multiply; `query_key_norm` is RMS over each head
    or over all heads of a query or key at once. Where there are `experts`, blocks other than `dense_layers` have them for
    an MLP, beside one of `shared_expert_size` that every token takes, weighed by a gate of its own; `router_bias` is theirs.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm_eps: float
    attention: tuple[Attention, ...]
    tie_word_embeddings: bool = False
    query_key_value_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    norms: Norms = PRE
    query_key_norm: Literal["head", "all"] | None = None
    activation: Activation = "silu"
    gated: bool = True
    positions: bool = False
    embedding_norm: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    logits_softcap: float | None = None
    experts: Experts | None = None
    router_bias: bool = False
    dense_layers: tuple[int, ...] = ()
    shared_expert_size: int = 0

    def __post_init__(self) -> None:
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "max_position_embeddings",
        ):  # fmt: skip
            if not 0 < getattr(self, name) <= _LARGEST.get(name, _LARGEST_SIZE):
                allowed = f"1 to {_LARGEST.get(name, _LARGEST_SIZE)} is allowed"
                raise ArchitectureError(f"{name} is {getattr(self, name)!r:.40}; {allowed}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ArchitectureError(
                f"{self.num_attention_heads} attention heads are no multiple of {self.num_key_value_heads} key/value heads"
            )
        if self.experts is not None and (self.hidden_size % 2 or self.experts.intermediate_size % 2):
            raise ArchitectureError(
                f"experts of {self.hidden_size} x {self.experts.intermediate_size}; even sizes are needed"
            )
        if self.experts is not None and not 0 < self.experts.top_k <= self.experts.count <= _MOST_EXPERTS:
            raise ArchitectureError(
                f"{self.experts.top_k} of {self.experts.count} experts a token; at most {_MOST_EXPERTS} experts, and 1 "
                "to all of them a token, are allowed"
            )
        windows = [spec.window for spec in self.attention if spec.window is not None]
        if windows and min(windows) < 1:
            raise ArchitectureError(f"sliding_window is {min(windows)}; 1 or more is needed")


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model as functions over `Ops`; `head_at` is the module that gives the logits (the embedding where they are tied)."""

    config: DecoderConfig
    head_at: str
    layout: Layout = field(default_factory=Layout)

    @property
    def embedding_at(self) -> str:
        return EMBEDDING

    @property
    def norm_at(self) -> str:
        return NORM

    def block_at(self, layer: int) -> str:
        return f"{BLOCKS}.{layer}"

    def embed(self, ops: Ops[T], ids: T) -> T:
        """Token ids `[B, T]` -> hidden states `[B, T, hidden_size]`."""
        c = self.config
        x = ops.embedding(ids, self.embedding_at)
        if c.embedding_scale != 1:
            x = ops.scale(x, c.embedding_scale)
        if c.positions:
            x = ops.add(x, ops.position_embedding(ids, POSITIONS))
        return self._norm(ops, x, EMBEDDING_NORM) if c.embedding_norm else x

    def block(self, ops: Ops[T], x: T, layer: int) -> T:
        """One transformer block, `[B, T, hidden_size]` -> the same."""
        at, norms = self.block_at(layer), self.config.norms

        def norm(y: T, name: str | None) -> T:
            return y if name is None else self._norm(ops, y, f"{at}.{name}")

        def added(y: T, change: T) -> T:
            scale = self.config.residual_scale
            return ops.add(y, change if scale == 1 else ops.scale(change, scale))

        attention_input = norm(x, norms.before_attention)
        attended = norm(self._attention(ops, attention_input, layer), norms.after_attention)
        if norms.parallel:
            mlp_input = attention_input if norms.before_mlp is None else norm(x, norms.before_mlp)
            return added(added(x, attended), norm(self._mlp(ops, mlp_input, layer), norms.after_mlp))
        x = added(x, attended)
        return added(x, norm(self._mlp(ops, norm(x, norms.before_mlp), layer), norms.after_mlp))

    def head(self, ops: Ops[T], x: T) -> T:
        """Final norm and projection, `[B, T, hidden_size]` -> logits `[B, T, vocab_size]`."""
        c = self.config
        logits = ops.linear(self._norm(ops, x, self.norm_at), self.head_at)
        if c.logits_scale != 1:
            logits = ops.scale(logits, c.logits_scale)
        return logits if c.logits_softcap is None else ops.softcap(logits, c.logits_softcap)

    def logits(self, ops: Ops[T], ids: T) -> T:
        """The whole model: token ids `[B, T]` -> logits `[B, T, vocab_size]`."""
        x = self.embed(ops, ids)
        for layer in range(self.config.num_hidden_layers):
            x = self.block(ops, x, layer)
        return self.head(ops, x)

    def attention_spec(self, layer: int) -> Attention:
        """What the attention of block `layer` computes."""
        return self.config.attention[layer % len(self.config.attention)]

    def _attention(self, ops: Ops[T], x: T, layer: int) -> T:
        at, c = f"{self.block_at(layer)}.self_attn", self.config
        q, k, v = (ops.linear(x, f"{at}.{name}_proj") for name in "qkv")
        if c.query_key_norm is not None:
            parts = (c.num_attention_heads, c.num_key_value_heads) if c.query_key_norm == "head" else (1, 1)
            q = ops.rms_norm(q, f"{at}.q_norm", c.norm_eps, parts[0])
            k = ops.rms_norm(k, f"{at}.k_norm", c.norm_eps, parts[1])
        return ops.linear(ops.attention(q, k, v, layer, self.attention_spec(layer)), f"{at}.o_proj")

    def experts_of(self, layer: int) -> Experts | None:
        """The experts of block `layer`, None where it has an ordinary MLP."""
        return None if layer in self.config.dense_layers else self.config.experts

    def _mlp(self, ops: Ops[T], x: T, layer: int) -> T:
        at, experts = f"{self.block_at(layer)}.mlp", self.experts_of(layer)
        if experts is None:
            return self._dense(ops, x, at)
        mixed = ops.experts(x, at, experts)
        if not self.config.shared_expert_size:
            return mixed
        weight = ops.activation(ops.linear(x, f"{at}.shared_expert_gate"), "sigmoid")
        return ops.add(mixed, ops.mul(weight, self._dense(ops, x, f"{at}.shared_expert")))

    def _dense(self, ops: Ops[T], x: T, at: str) -> T:
        kind = self.config.activation
        if not self.config.gated:
            return ops.linear(ops.activation(ops.linear(x, f"{at}.up_proj"), kind), f"{at}.down_proj")
        gate = ops.activation(ops.linear(x, f"{at}.gate_proj"), kind)
        return ops.linear(ops.mul(gate, ops.linear(x, f"{at}.up_proj")), f"{at}.down_proj")

    def _norm(self, ops: Ops[T], x: T, at: str) -> T:
        eps = self.config.norm_eps
        return ops.rms_norm(x, at, eps) if self.config.norm == "rms" else ops.layer_norm(x, at, eps)

    def tensors(self, part: int | None = None) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor: of block `part`, or of what is outside the blocks when None."""
        if part is None:
            return self.first_tensors() | self.last_tensors()
        c, at = self.config, self.block_at(part)
        shapes: dict[str, tuple[int, ...]] = {}
        for norm in c.norms.names():
            shapes |= self._norm_tensors(f"{at}.{norm}")
        if c.query_key_norm is not None:
            for name, heads in (("q_norm", c.num_attention_heads), ("k_norm", c.num_key_value_heads)):
                size = c.head_dim * (1 if c.query_key_norm == "head" else heads)
                shapes[f"{at}.self_attn.{name}.weight"] = (size,)
        if self.attention_spec(part).sinks:
            shapes[f"{at}.self_attn.sinks"] = (c.num_attention_heads,)
        if self.experts_of(part) is not None:
            shapes |= self._router_tensors(f"{at}.mlp")
        for name, (rows, columns, bias) in self._projections(part).items():
            shapes[f"{at}.{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{at}.{name}.bias"] = (rows,)
        return shapes

    def first_tensors(self) -> dict[str, tuple[int, ...]]:
        """Those of `tensors()` that `embed` reads, the embedding first."""
        c = self.config
        shapes: dict[str, tuple[int, ...]] = {f"{self.embedding_at}.weight": (c.vocab_size, c.hidden_size)}
        if c.positions:
            shapes[f"{POSITIONS}.weight"] = (c.max_position_embeddings, c.hidden_size)
        return shapes | self._norm_tensors(EMBEDDING_NORM) if c.embedding_norm else shapes

    def last_tensors(self) -> dict[str, tuple[int, ...]]:
        """Those of `tensors()` that only `head` reads: the final norm's, and the head's unless it is the embedding."""
        c, shapes = self.config, self._norm_tensors(self.norm_at)
        if self.head_at != self.embedding_at:
            shapes[f"{self.head_at}.weight"] = (c.vocab_size, c.hidden_size)
            if c.head_bias:
                shapes[f"{self.head_at}.bias"] = (c.vocab_size,)
        return shapes

    def head_tensors(self) -> tuple[str, ...]:
        """The names of all that `head` reads, the embedding among them where the head is tied to it."""
        return tuple(dict.fromkeys((*self.last_tensors(), f"{self.head_at}.weight")))

    def every_tensor(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor of the model."""
        shapes = self.tensors()
        for layer in range(self.config.num_hidden_layers):
            shapes |= self.tensors(layer)
        return shapes

    def sources(self) -> dict[str, TensorSource]:
        """Where each tensor lies in a checkpoint of the family."""
        return {name: self.layout.source(name, shape) for name, shape in self.every_tensor().items()}

    def unused_tensors(self) -> tuple[str, ...]:
        """Endings of the names of tensors that a checkpoint may hold without their being used: buffers, a tied head."""
        tied = (self.layout.source(f"{HEAD}.weight", ()).name,) if self.head_at != HEAD else ()
        return (*_BUFFERS, *self.layout.ignored, *tied)

    def linears(self, layer: int) -> tuple[str, ...]:
        """The projections of block `layer`, in the order in which they are computed: what quantisation replaces."""
        return tuple(f"{self.block_at(layer)}.{name}" for name in self._projections(layer))

    def fused(self, layer: int) -> tuple[tuple[str, ...], ...]:
        """`linears(layer)`, those together that engines compute in one multiplication and that therefore share their bits."""
        groups: dict[str, list[str]] = {}
        for name in self.linears(layer):
            parent, _, last = _EXPERT.sub(r"\1.", name).rpartition(".")
            groups.setdefault(f"{parent}.{_FUSED.get(last, last)}", []).append(name)
        return tuple(tuple(group) for group in groups.values())

    def same_input(self, layer: int) -> tuple[tuple[str, ...], ...]:
        """Those of `linears(layer)` outside the experts that read the same input: query, key, value; gate, up."""
        return tuple(
            group for group in self.fused(layer) if len(group) > 1 and not any(_EXPERT.search(name) for name in group)
        )

    def expert_stacks(self, layer: int) -> tuple[tuple[str, ...], ...]:
        """Those of `linears(layer)` that differ only in the expert they belong to."""
        stacks: dict[str, list[str]] = {}
        for name in self.linears(layer):
            if _EXPERT.search(name):
                stacks.setdefault(_EXPERT.sub(r"\1.", name), []).append(name)
        return tuple(tuple(stack) for stack in stacks.values())

    def _norm_tensors(self, at: str) -> dict[str, tuple[int, ...]]:
        kinds = ("weight", "bias") if self.config.norm_bias else ("weight",)
        return {f"{at}.{kind}": (self.config.hidden_size,) for kind in kinds}

    def _router_tensors(self, at: str) -> dict[str, tuple[int, ...]]:
        """What decides on experts, and stays in float: the router, and the shared expert's gate."""
        c = self.config
        shared = {f"{at}.shared_expert_gate.weight": (1, c.hidden_size)} if c.shared_expert_size else {}
        count = c.experts.count if c.experts else 0
        bias = {f"{at}.gate.bias": (count,)} if c.router_bias else {}
        return {f"{at}.gate.weight": (count, c.hidden_size), **bias, **shared}

    def _projections(self, layer: int) -> dict[str, tuple[int, int, bool]]:
        c = self.config
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        return {
            "self_attn.q_proj": (q, c.hidden_size, c.query_key_value_bias),
            "self_attn.k_proj": (kv, c.hidden_size, c.query_key_value_bias),
            "self_attn.v_proj": (kv, c.hidden_size, c.query_key_value_bias),
            "self_attn.o_proj": (c.hidden_size, q, c.output_bias),
            **self._mlp_projections(layer),
        }

    def _mlp_projections(self, layer: int) -> dict[str, tuple[int, int, bool]]:
        c, experts = self.config, self.experts_of(layer)

        def mlp(at: str, size: int) -> dict[str, tuple[int, int, bool]]:
            into, out = (size, c.hidden_size, c.mlp_bias), (c.hidden_size, size, c.mlp_bias)
            if experts is not None and experts.clamped is not None:
                return {f"{at}.gate_up_proj": (2 * size, c.hidden_size, c.mlp_bias), f"{at}.down_proj": out}
            gate = {f"{at}.gate_proj": into} if c.gated else {}
            return {**gate, f"{at}.up_proj": into, f"{at}.down_proj": out}

        if experts is None:
            return mlp("mlp", c.intermediate_size)
        found = mlp("mlp.shared_expert", c.shared_expert_size) if c.shared_expert_size else {}
        for expert in range(experts.count):
            found |= mlp(f"mlp.experts.{expert}", experts.intermediate_size)
        return found
