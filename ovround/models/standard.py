"""The keys that most config.json files share, read into a `DecoderConfig`; a family changes what it does otherwise."""

from __future__ import annotations

from dataclasses import replace

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import EMBEDDING, HEAD, Decoder, DecoderConfig
from ovround.models.layout import Layout
from ovround.models.ops import Activation, Attention, Experts, ExpertWeights
from ovround.models.rope import rope_from_config

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
}  # fmt: skip
FULL, SLIDING = "full_attention", "sliding_attention"


def read_config(
    read: ConfigReader,
    *,
    tied: bool = False,
    activation: str = "silu",
    positions: int = 2048,
    eps: float = 1e-6,
    intermediate_size: int | None = None,
) -> DecoderConfig:
    """Sizes, biases and activation as Llama spells them, with the family's defaults for what may be missing.

    Its attention is plain, without rotation. Raises ArchitectureError for a key that is missing, of another kind, or out of
    range.
    """
    hidden, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    kv_heads = read.integer("num_key_value_heads", heads)
    head_dim = read.integer("head_dim", hidden // max(heads, 1))
    bias = read.flag("attention_bias", default=False)
    return DecoderConfig(
        hidden_size=hidden,
        intermediate_size=read.integer("intermediate_size", intermediate_size),
        num_hidden_layers=read.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=read.integer("vocab_size"),
        max_position_embeddings=read.integer("max_position_embeddings", positions),
        norm_eps=read.number("rms_norm_eps", eps),
        attention=(Attention(heads, kv_heads, head_dim, max(head_dim, 1) ** -0.5),),
        tie_word_embeddings=read.flag("tie_word_embeddings", default=tied),
        query_key_value_bias=bias,
        output_bias=bias,
        mlp_bias=read.flag("mlp_bias", default=False),
        activation=read_activation(read, "hidden_act", activation),
    )


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
    read: ConfigReader, config: DecoderConfig, *, theta: float = 10000.0, partial: float | None = None
) -> DecoderConfig:
    """`config` with the rotation that all its layers share (see `rope_from_config`), and the context that it stretches to."""
    rope = rope_from_config(read.config, config.head_dim, theta=theta, partial=partial)
    longest = config.max_position_embeddings
    if rope.variant == "dynamic":  # the one variant whose configuration states the length before stretching
        longest = int(longest * rope.factor)
    attention = tuple(replace(spec, rope=rope) for spec in config.attention)
    return replace(config, attention=attention, max_position_embeddings=longest)


def read_experts(
    read: ConfigReader,
    config: DecoderConfig,
    *,
    weights: ExpertWeights,
    count: int,
    top_k: int,
    size: int | None = None,
) -> tuple[DecoderConfig, int]:
    """`config` with experts of `size`, or else of its MLP's, and their number.

    `count` and `top_k` hold where `num_experts` and `num_experts_per_tok` are not there.
    """
    experts = Experts(
        read.integer("num_experts", count),
        read.integer("num_experts_per_tok", top_k),
        config.intermediate_size if size is None else size,
        weights,
        config.activation,
    )
    return replace(config, experts=experts), experts.count


def read_shares(read: ConfigReader) -> ExpertWeights:
    """How `norm_topk_prob` says that experts are weighed."""
    return "share" if read.flag("norm_topk_prob", default=False) else "probability"


def windows_by_layer(
    read: ConfigReader, layers: int, window: int | None, default: tuple[str, ...]
) -> tuple[int | None, ...]:
    """Each layer's window: `window` where `layer_types`, or else `default`, says sliding attention."""
    kinds = read.words("layer_types", layers, (FULL, SLIDING)) or default
    return tuple(window if kind == SLIDING else None for kind in kinds)


def read_window(read: ConfigReader, default: int | None = None) -> int | None:
    """`sliding_window`, None where there is none."""
    if "sliding_window" in read.config and read.config["sliding_window"] is None:
        return None
    return read.integer("sliding_window", default or 0) or None


def decoder(config: DecoderConfig, layout: Layout | None = None) -> Decoder:
    """The decoder, its head tied or not as `config` says."""
    return Decoder(config, EMBEDDING if config.tie_word_embeddings else HEAD, layout or Layout())
