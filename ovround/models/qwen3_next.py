"""Qwen3-Next: three gated delta nets, then one attention with an output gate; experts beside one that every token takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Fused, Layout, fused_rows
from ovround.models.parts.attention import SelfAttention
from ovround.models.parts.gated_delta_net import GatedDeltaNet
from ovround.models.qwen2_moe import sparse
from ovround.models.standard import FULL, StandardParts, read_activation, read_parts, rotated

LINEAR = "linear_attention"
WHOLE_NORMS = ("linear_attn.norm",)  # the one norm that is stored as it is
_DEFAULTS = {
    "num_key_value_heads": 2, "head_dim": 256, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
}  # fmt: skip
_DENSE = 5632  # the MLP's default size


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Qwen3-Next config.json describes; raises ArchitectureError for a variant that is not built."""
    read = with_defaults(config)
    parts = hybrid_parts(read, intermediate_size=_DENSE)
    mixers = hybrid_mixers(read, parts)
    if not read.integer("num_experts", 512):
        decoder = parts.decoder(mixers)
    else:
        shared = read.integer("shared_expert_intermediate_size", 512)
        read = ConfigReader({**read.config, "norm_topk_prob": read.flag("norm_topk_prob", default=True)})
        decoder = sparse(read, parts, mixers, count=512, top_k=10, size=512, shared_size=shared)
    return replace(decoder, layout=hybrid_layout(decoder, _joined(mixers)))


def with_defaults(config: Mapping[str, Any], **defaults: int) -> ConfigReader:
    """A reader of `config` in which what the classes of this kind have by default is stated."""
    return ConfigReader(_DEFAULTS | defaults | {key: value for key, value in config.items() if value is not None})


def hybrid_parts(read: ConfigReader, intermediate_size: int | None = None) -> StandardParts:
    """The standard parts, with normed queries and keys, an output gate, and a quarter of a head rotated."""
    parts = rotated(read, read_parts(read, positions=32768, intermediate_size=intermediate_size), partial=0.25)
    attention = replace(parts.attention, query_key_norm="head", output_gate=True)
    return replace(parts, attention=attention, mlp=replace(parts.mlp, bias=False))


def hybrid_mixers(read: ConfigReader, parts: StandardParts) -> list[SelfAttention | GatedDeltaNet]:
    """Each layer's mixer, as `layer_types` says, or every `full_attention_interval`th an attention."""
    layers, interval = parts.config.num_hidden_layers, read.integer("full_attention_interval", 4)
    if interval < 1:
        raise ArchitectureError(f"config.json: `full_attention_interval` is {interval}; 1 or more is needed")
    kinds = read.words("layer_types", layers, (LINEAR, FULL)) or tuple(
        LINEAR if (layer + 1) % interval else FULL for layer in range(layers)
    )
    kernel_size = read.integer("linear_conv_kernel_dim")
    if kernel_size < 2:
        raise ArchitectureError(f"config.json: `linear_conv_kernel_dim` is {kernel_size}; 2 or more is needed")
    delta = GatedDeltaNet(
        parts.config.hidden_size,
        read.integer("linear_num_key_heads"),
        read.integer("linear_num_value_heads"),
        read.integer("linear_key_head_dim"),
        read.integer("linear_value_head_dim"),
        kernel_size,
        parts.norm.eps,
        read_activation(read, "hidden_act", "silu"),
    )
    return [delta if kind == LINEAR else parts.attention for kind in kinds]


def hybrid_layout(decoder: Decoder, delta: Mapping[str, Fused]) -> Layout:
    """Norms less 1, a query projection that holds the gate too, head by head, and `delta`, the joined projections of delta nets."""
    heads = {part.spec.head_dim for block in decoder.blocks for part in block.parts if isinstance(part, SelfAttention)}
    size = next(iter(heads), 1)
    query, gate = fused_rows("self_attn.q_proj", size, size)
    modules = {"self_attn.q_proj": query, "self_attn.output_gate_proj": gate, **delta}
    return replace(decoder.layout, modules=modules, norm_offset=1.0, whole_norms=WHOLE_NORMS)


def _joined(mixers: list[SelfAttention | GatedDeltaNet]) -> dict[str, Fused]:
    """Qwen3-Next's two joined projections: for each key head its query, key, values and gates, and its b and a."""
    delta = next((mixer for mixer in mixers if isinstance(mixer, GatedDeltaNet)), None)
    if delta is None:
        return {}
    repeats = delta.value_heads // delta.key_heads
    values = repeats * delta.value_size
    wide = fused_rows("linear_attn.in_proj_qkvz", delta.key_size, delta.key_size, values, values)
    narrow = fused_rows("linear_attn.in_proj_ba", repeats, repeats)
    names = [f"linear_attn.in_proj_{name}" for name in "qkvzba"]
    return dict(zip(names, (*wide, *narrow), strict=True))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen3_next", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "full_attention_interval": 2, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 128,
    }  # fmt: skip
    variant = {
        "layer_types": [FULL, LINEAR, LINEAR], "attention_bias": True, "mlp_only_layers": [1], "norm_topk_prob": False,
        "linear_num_key_heads": 4, "linear_key_head_dim": 24, "linear_conv_kernel_dim": 3, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
    }  # fmt: skip
    return [base, {**base, **variant}]
