"""Phi 3, 3.5 and 4: Llama with joined projections, a sliding window, and LongRoPE in the long-context models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout, attention_of, fused_rows
from ovround.models.standard import read_parts, read_sliding_window, rotated, with_biases, with_sliding_window


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Phi 3 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(_respelled(config))
    parts = rotated(read, read_parts(read, positions=4096, eps=1e-5), partial=1.0)
    parts = with_biases(parts, attention=False, output=False, mlp=False)
    attention = with_sliding_window(parts.attention, read_sliding_window(read))
    queries, keys = attention.spec.num_heads, attention.spec.num_key_value_heads
    size, inner = attention.spec.head_dim, parts.mlp.intermediate_size
    gate, up = fused_rows("mlp.gate_up_proj", inner, inner)
    modules = attention_of("self_attn.qkv_proj", queries * size, keys * size, keys * size)
    return parts.decoder([attention], layout=Layout({**modules, "mlp.gate_proj": gate, "mlp.up_proj": up}))


def _respelled(config: Mapping[str, Any]) -> dict[str, Any]:
    """LongRoPE was called `su` and, of Phi 3 alone, `yarn` at first."""
    changed = dict(config)
    for key in ("rope_parameters", "rope_scaling"):
        scaling = config.get(key)
        if isinstance(scaling, Mapping) and scaling.get("rope_type", scaling.get("type")) in ("su", "yarn"):
            changed[key] = {**scaling, "rope_type": "longrope"}
    return changed


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "phi3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    factors = {
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [1.0, 1.5, 2.0, 4.0, 6.0, 8.0],
        "partial_rotary_factor": 0.75,
    }  # fmt: skip
    return [
        {**base, "sliding_window": 12},
        {
            **base, "original_max_position_embeddings": 32, "tie_word_embeddings": True, "partial_rotary_factor": 0.75,
            "rope_scaling": {"type": "longrope", **factors},
        },
    ]  # fmt: skip
