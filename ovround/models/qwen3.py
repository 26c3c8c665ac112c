"""Qwen3: Qwen2 without biases, each head of query and key normed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.qwen2 import windowed
from ovround.models.standard import read_parts, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Qwen3 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({"head_dim": 128, **config})
    parts = rotated(read, read_parts(read, positions=32768))
    attention, mlp = replace(parts.attention, query_key_norm="head"), replace(parts.mlp, bias=False)
    parts = replace(parts, attention=attention, mlp=mlp)
    return parts.decoder(windowed(read, parts))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "tie_word_embeddings": True,
    }  # fmt: skip
    biased = {"attention_bias": True, "tie_word_embeddings": False}
    return [base, {**base, **biased, "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}]
