"""dots.llm1: Qwen3's attention and DeepSeek-V3's choice of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.deepseek_v3 import SHARED, experts_count, read_mixture, read_routing, refuse_other_choices
from ovround.models.layout import Layout
from ovround.models.standard import (
    FULL,
    SLIDING,
    read_parts,
    read_shares,
    read_sliding_window,
    rotated,
    sliding_windows,
    with_sliding_window,
)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a dots.llm1 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({**config, "mlp_bias": False}, {"n_routed_experts": ("num_local_experts", "n_routed_experts")})
    refuse_other_choices(read, "sigmoid", "noaux_tc")
    parts = rotated(read, read_parts(read))
    layers = parts.config.num_hidden_layers
    window, last = read_sliding_window(read, 4096), read.integer("max_window_layers", 62)
    kinds = tuple(SLIDING if window and layer >= last else FULL for layer in range(layers))
    attention = replace(parts.attention, query_key_norm="head")
    mixers = [with_sliding_window(attention, size) for size in sliding_windows(read, layers, window, kinds)]
    mixture = read_mixture(
        read, parts, read_routing(read), weights=read_shares(read), count=None, top_k=None, size=1408, shared=None
    )
    first = read.integer("first_k_dense_replace", 0)
    mlps = [parts.mlp if layer < first else mixture for layer in range(layers)]
    return parts.decoder(mixers, mlps, layout=Layout(SHARED, experts_count=experts_count(mixture)))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "dots1", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
        "sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"], "first_k_dense_replace": 1,
        "n_group": 2, "topk_group": 1, "attention_bias": True,
    }  # fmt: skip
    return [base]
