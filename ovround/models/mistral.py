"""Mistral: Llama; every layer has a sliding window where `sliding_window` gives one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import read_parts, read_sliding_window, rotated, with_biases, with_sliding_window


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Mistral config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read, positions=131072))
    parts = with_biases(parts, attention=False, output=False, mlp=False)
    return parts.decoder([with_sliding_window(parts.attention, read_sliding_window(read, 4096))])


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "mistral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "sliding_window": 12,
    }  # fmt: skip
    return [base, {**base, "sliding_window": None, "head_dim": 32}]
