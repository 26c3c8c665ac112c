"""Arcee (AFM-4.5B): Llama with an MLP without gate, of squared ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import read_parts, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an Arcee config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read, activation="relu2", positions=4096, eps=1e-5))
    return parts.decoder(mlps=[replace(parts.mlp, gated=False)])


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "arcee", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "attention_bias": True, "mlp_bias": True,
    }  # fmt: skip
    return [base]
