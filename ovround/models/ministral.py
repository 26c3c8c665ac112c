"""Ministral: Mistral in which `layer_types` says which layers have the sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import (
    FULL,
    SLIDING,
    read_parts,
    read_sliding_window,
    rotated,
    sliding_windows,
    with_biases,
    with_sliding_window,
)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Ministral config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({"num_key_value_heads": 8, **config})
    parts = rotated(read, read_parts(read, positions=131072))
    parts = with_biases(parts, attention=False, output=False, mlp=False)
    windows = sliding_windows(
        read,
        parts.config.num_hidden_layers,
        read_sliding_window(read, 4096),
        (SLIDING,) * parts.config.num_hidden_layers,
    )
    return parts.decoder([with_sliding_window(parts.attention, window) for window in windows])


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "ministral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "sliding_window": 12,
    }  # fmt: skip
    return [{**base, "layer_types": [FULL, SLIDING]}, base]
