"""OLMoE: Llama with experts, weighed by a softmax over all of them, and whole queries and keys normed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.standard import read_experts, read_parts, read_shares, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an OLMoE config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"num_experts": ("num_local_experts", "num_experts")})
    parts = rotated(read, read_parts(read, positions=4096, eps=1e-5))
    clip = read.number("clip_qkv", 0.0)
    attention = replace(
        parts.attention, query_key_norm="all", clip=clip if config.get("clip_qkv") is not None else None
    )
    experts = replace(read_experts(read, parts, weights=read_shares(read), count=64, top_k=8), bias=False)
    return parts.decoder([attention], [experts], layout=Layout(experts_count=experts.spec.count))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "olmoe", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 160, "max_position_embeddings": 256, "num_experts": 6,
        "num_experts_per_tok": 2, "eos_token_id": 2,
    }  # fmt: skip
    return [base, {**base, "num_key_value_heads": 2, "norm_topk_prob": True, "clip_qkv": 1.5}]
