"""The text model of Qwen3.5: Qwen3-Next's mixers with a dense MLP, and their projections joined in another way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.decoder import Decoder
from ovround.models.layout import Fused, fused_rows
from ovround.models.parts.attention import SelfAttention
from ovround.models.parts.gated_delta_net import GatedDeltaNet
from ovround.models.qwen3_next import hybrid_layout, hybrid_mixers, hybrid_parts, with_defaults
from ovround.models.standard import FULL


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that the `text_config` of a Qwen3.5 checkpoint describes."""
    read = with_defaults(config, num_key_value_heads=4)
    parts = hybrid_parts(read)
    mixers = hybrid_mixers(read, parts)
    decoder = parts.decoder(mixers)
    return replace(decoder, layout=hybrid_layout(decoder, joined(mixers)))


def joined(mixers: list[SelfAttention | GatedDeltaNet]) -> dict[str, Fused]:
    """Qwen3.5's joined projection: all queries, then all keys, then all values."""
    delta = next((mixer for mixer in mixers if isinstance(mixer, GatedDeltaNet)), None)
    if delta is None:
        return {}
    keys, values = delta.key_heads * delta.key_size, delta.value_heads * delta.value_size
    names = [f"linear_attn.in_proj_{name}" for name in "qkv"]
    return dict(zip(names, fused_rows("linear_attn.in_proj_qkv", keys, keys, values), strict=True))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen3_5_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "full_attention_interval": 2, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 16,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
    }  # fmt: skip
    variant = {
        "layer_types": ["linear_attention", FULL], "attention_bias": True, "hidden_act": "gelu_pytorch_tanh",
        "linear_num_key_heads": 4, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 2, "tie_word_embeddings": True,
        "partial_rotary_factor": 0.5, "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0,
                                                           "original_max_position_embeddings": 32},
    }  # fmt: skip
    return [base, {**base, **variant}]
