"""LFM2: short gated convolutions in most blocks, attention with normed queries and keys in the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import Decoder
from ovround.models.layout import Fused, Layout, fused_rows
from ovround.models.parts.causal_convolution import CausalConvolution
from ovround.models.parts.part import Part
from ovround.models.parts.short_convolution import ShortConvolution
from ovround.models.standard import FULL, StandardParts, read_parts, rotated, with_biases

NAMES: Names = {
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": ("tie_embedding", "tie_word_embeddings"),
    "intermediate_size": ("block_ff_dim", "intermediate_size"),
}
_CONVOLUTION = "conv"


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an LFM2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, NAMES)
    parts = lfm2_parts(read)
    mlp = replace(parts.mlp, intermediate_size=_intermediate_size(read))
    return parts.decoder(mixers(read, parts), [mlp], layout=Layout(modules(parts.config.hidden_size)))


def lfm2_parts(read: ConfigReader, intermediate_size: int = 12288) -> StandardParts:
    """What LFM2 and its mixture share: rotation, norms, no biases but the convolutions'."""
    parts = read_parts(read, tied=True, positions=128_000, eps=1e-5, intermediate_size=intermediate_size)
    parts = rotated(read, parts, theta=1e6)
    parts = with_biases(parts, attention=False, output=False, mlp=False)
    parts = replace(parts, mlp=replace(parts.mlp, activation="silu"))  # whatever `hidden_act` says, as in transformers
    return replace(parts, attention=replace(parts.attention, query_key_norm="head"))


def mixers(read: ConfigReader, parts: StandardParts) -> list[Part]:
    """Attention, or a convolution, for each layer."""
    layers, hidden = parts.config.num_hidden_layers, parts.config.hidden_size
    bias = read.flag("conv_bias", default=False)
    convolution = CausalConvolution("conv", hidden, read.integer("conv_L_cache", 3), bias, silu=False)
    short = ShortConvolution(hidden, convolution, bias)
    kinds = read.words("layer_types", layers, (FULL, _CONVOLUTION)) or _kinds(read, layers)
    return [parts.attention if kind == FULL else short for kind in kinds]


def _kinds(read: ConfigReader, layers: int) -> tuple[str, ...]:
    """What checkpoints from before `layer_types` say; without either key every layer attends."""
    attending = read.config.get("full_attn_idxs")
    attending = list(range(layers)) if attending is None else attending
    if not isinstance(attending, list):
        raise ArchitectureError(f"config.json: `full_attn_idxs` is {attending!r:.40}; a list is needed")
    return tuple(FULL if layer in attending else _CONVOLUTION for layer in range(layers))


def _intermediate_size(read: ConfigReader) -> int:
    """LFM2 states the size of an MLP without a gate; a gated one gets two thirds, rounded up to a multiple."""
    size, multiple = read.integer("intermediate_size", 12288), read.integer("block_multiple_of", 256)
    if not read.flag("block_auto_adjust_ff_dim", default=True):
        return size
    if multiple < 1:
        raise ArchitectureError(f"config.json: `block_multiple_of` is {multiple}; 1 or more is needed")
    size = int(read.number("block_ffn_dim_multiplier", 1.0) * int(2 * size / 3))
    return -(-size // multiple) * multiple


def modules(hidden: int) -> dict[str, str | Fused]:
    """The checkpoint's names, of `hidden` features."""
    into = fused_rows("conv.in_proj", hidden, hidden, hidden)
    return {
        **{f"conv.{name}_proj": rows for name, rows in zip("bch", into, strict=True)},
        "self_attn.o_proj": "self_attn.out_proj", "self_attn.q_norm": "self_attn.q_layernorm",
        "self_attn.k_norm": "self_attn.k_layernorm", "input_layernorm": "operator_norm",
        "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2", "model.norm": "model.embedding_norm",
    }  # fmt: skip


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "lfm2", "hidden_size": 64, "intermediate_size": 144, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    adjusted = {"block_multiple_of": 32, "block_ffn_dim_multiplier": 1.1, "full_attn_idxs": [1], "tie_embedding": False}
    plain = {
        "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"], "conv_bias": True, "conv_L_cache": 4,
        "norm_eps": 1e-6, "block_ff_dim": 96,
    }  # fmt: skip
    return [{**base, **adjusted}, {**base, **plain}]
