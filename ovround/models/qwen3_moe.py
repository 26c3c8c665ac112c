"""Qwen3-MoE: Qwen3 with experts, in some or all of its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.qwen2_moe import sparse
from ovround.models.standard import read_parts, read_sliding_window, rotated, with_sliding_window


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Qwen3-MoE config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"num_experts": ("num_local_experts", "num_experts")})
    parts = rotated(read, read_parts(read, positions=32768))
    parts = replace(parts, mlp=replace(parts.mlp, bias=False))
    sliding_window = read_sliding_window(read, 4096) if read.flag("use_sliding_window", default=False) else None
    attention = with_sliding_window(replace(parts.attention, query_key_norm="head"), sliding_window)
    return sparse(read, parts, [attention], count=128, top_k=8, size=768)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    }  # fmt: skip
    variant = {"decoder_sparse_step": 2, "norm_topk_prob": False, "attention_bias": True, "tie_word_embeddings": True}
    return [base, {**base, **variant, "use_sliding_window": True, "sliding_window": 12}]
