"""Mistral: Llama with a window that every layer attends within, where `sliding_window` gives one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import decoder, read_config, read_window, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Mistral config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    found = rotated(read, read_config(read, positions=131072))
    spec = replace(found.attention[0], window=read_window(read, 4096))
    return decoder(replace(found, attention=(spec,), query_key_value_bias=False, output_bias=False, mlp_bias=False))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "mistral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "sliding_window": 12,
    }  # fmt: skip
    return [base, {**base, "sliding_window": None, "head_dim": 32}]
