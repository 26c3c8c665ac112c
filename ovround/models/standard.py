"""The keys that most config.json files share, read into the parts that most models have; a family changes what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ovround.errors import ArchitectureError
from ovround.models.block import Block
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import EMBEDDING, HEAD, Decoder, DecoderConfig
from ovround.models.layout import Layout
from ovround.models.ops import Activation, Attention, Experts, ExpertWeights
from ovround.models.parts.attention import SelfAttention
from ovround.models.parts.dense import DenseMlp
from ovround.models.parts.ends import Embedding, Head
from ovround.models.parts.experts import ExpertMlp
from ovround.models.parts.norms import PRE, Norm, NormPlaces
from ovround.models.parts.part import Part
from ovround.models.rope import rope_from_config

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "relu2": "relu2",
}  # fmt: skip
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class StandardParts:
    """What most config.json files say, as parts; `norm` is that of every block and the final one."""

    config: DecoderConfig
    attention: SelfAttention
    mlp: DenseMlp
    norm: Norm
    head: Head
    embedding: Embedding
    tied: bool

    def decoder(
        self,
        mixers: Sequence[Part] = (),
        mlps: Sequence[Part] = (),
        *,
        places: NormPlaces = PRE,
        residual_scale: float = 1.0,
        layout: Layout | None = None,
    ) -> Decoder:
        """The decoder whose block i has `mixers[i % len(mixers)]` and an MLP of `mlps` likewise.

        Where none are given, every block has `attention` and `mlp`.
        """
        mixers, mlps = mixers or (self.attention,), mlps or (self.mlp,)
        blocks = tuple(
            Block(self.norm, (mixers[layer % len(mixers)], mlps[layer % len(mlps)]), places, residual_scale)
            for layer in range(self.config.num_hidden_layers)
        )
        head_at = EMBEDDING if self.tied else HEAD
        return Decoder(self.config, self.embedding, blocks, self.head, head_at, layout or Layout())


def read_parts(
    read: ConfigReader,
    *,
    tied: bool = False,
    activation: str = "silu",
    positions: int = 2048,
    eps: float = 1e-6,
    norm: Literal["rms", "layer"] = "rms",
    intermediate_size: int | None = None,
) -> StandardParts:
    """Sizes, biases and activation as Llama spells them, with the family's defaults for what may be missing.

    The attention is plain, without rotation. A layer norm has a bias. Raises ArchitectureError for a key that is missing, of
    another kind, or out of range.
    """
    hidden, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    kv_heads = read.integer("num_key_value_heads", heads)
    head_dim = read.integer("head_dim", hidden // max(heads, 1))
    bias = read.flag("attention_bias", default=False)
    inner = read.integer("intermediate_size", intermediate_size)
    config = DecoderConfig(
        hidden_size=hidden,
        num_hidden_layers=read.integer("num_hidden_layers"),
        vocab_size=read.integer("vocab_size"),
        max_position_embeddings=read.integer("max_position_embeddings", positions),
    )
    norm_eps = read.number("rms_norm_eps", eps)
    every_norm = Norm(norm, hidden, norm_eps, bias=norm == "layer")
    spec = Attention(heads, kv_heads, head_dim, max(head_dim, 1) ** -0.5)
    return StandardParts(
        config,
        SelfAttention(hidden, spec, bias=bias, output_bias=bias, norm_eps=norm_eps),
        DenseMlp(hidden, inner, read_activation(read, "hidden_act", activation), bias=read.flag("mlp_bias", default=False)),
        every_norm,
        Head(every_norm),
        Embedding(),
        read.flag("tie_word_embeddings", default=tied),
    )  # fmt: skip


def with_biases(parts: StandardParts, *, attention: bool, output: bool, mlp: bool) -> StandardParts:
    """`parts` with or without biases: of query, key and value, of the output projection, and of the MLP."""
    mixer = replace(parts.attention, bias=attention, output_bias=output)
    return replace(parts, attention=mixer, mlp=replace(parts.mlp, bias=mlp))


def read_activation(read: ConfigReader, key: str, default: str) -> Activation:
    """The activation at `key`; raises ArchitectureError listing those that are built."""
    name, value = read.value(key)
    value = default if value is None else value
    if value not in ACTIVATIONS:
        raise ArchitectureError(
            f"{name} `{value}` is not supported", hint=f"supported activations: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[value]


def rotated(
    read: ConfigReader,
    parts: StandardParts,
    *,
    theta: float = 10000.0,
    partial: float | None = None,
    interleaved: bool = False,
) -> StandardParts:
    """`parts` with the rotation that all layers share (see `rope_from_config`), and the context that it stretches to."""
    spec, config = parts.attention.spec, parts.config
    rope = rope_from_config(read.config, spec.head_dim, theta=theta, partial=partial, interleaved=interleaved)
    if rope.variant == "dynamic":  # the one variant whose configuration states the length before stretching
        config = replace(config, max_position_embeddings=int(config.max_position_embeddings * rope.factor))
    return replace(parts, config=config, attention=replace(parts.attention, spec=replace(spec, rope=rope)))


def read_experts(
    read: ConfigReader,
    parts: StandardParts,
    *,
    weights: ExpertWeights,
    count: int,
    top_k: int,
    size: int | None = None,
) -> ExpertMlp:
    """Experts of `size`, or else of the MLP's, with its activation and bias.

    `count` and `top_k` hold where `num_experts` and `num_experts_per_tok` are not there.
    """
    spec = Experts(
        read.integer("num_experts", count),
        read.integer("num_experts_per_tok", top_k),
        parts.mlp.intermediate_size if size is None else size,
        weights,
        parts.mlp.activation,
    )
    return ExpertMlp(parts.config.hidden_size, spec, parts.mlp.bias)


def read_shares(read: ConfigReader, *, default: bool = False) -> ExpertWeights:
    """How `norm_topk_prob` says that experts are weighed."""
    return "share" if read.flag("norm_topk_prob", default=default) else "probability"


def with_sliding_window(attention: SelfAttention, sliding_window: int | None) -> SelfAttention:
    """`attention` in which a query sees `sliding_window` tokens, its own included."""
    return replace(attention, spec=replace(attention.spec, sliding_window=sliding_window))


def sliding_windows(
    read: ConfigReader, layers: int, sliding_window: int | None, default: tuple[str, ...]
) -> tuple[int | None, ...]:
    """Each layer's window: `sliding_window` where `layer_types`, or else `default`, says sliding attention."""
    kinds = read.words("layer_types", layers, (FULL, SLIDING)) or default
    return tuple(sliding_window if kind == SLIDING else None for kind in kinds)


def read_sliding_window(read: ConfigReader, default: int | None = None) -> int | None:
    """The value of `sliding_window`; None where there is none."""
    if "sliding_window" in read.config and read.config["sliding_window"] is None:
        return None
    return read.integer("sliding_window", default or 0) or None
