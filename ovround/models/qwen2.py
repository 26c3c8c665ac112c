"""Qwen2 and Qwen2.5: Llama with biases on query, key and value; sliding windows from layer `max_window_layers` if switched on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.attention import SelfAttention
from ovround.models.standard import (
    FULL,
    SLIDING,
    StandardParts,
    read_parts,
    read_sliding_window,
    rotated,
    sliding_windows,
    with_biases,
    with_sliding_window,
)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Qwen2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read, positions=32768))
    parts = with_biases(parts, attention=True, output=False, mlp=False)
    return parts.decoder(windowed(read, parts))


def windowed(read: ConfigReader, parts: StandardParts) -> list[SelfAttention]:
    """Each layer's attention; where `use_sliding_window` is set, with a sliding window where the layer has one."""
    layers = parts.config.num_hidden_layers
    sliding_window = read_sliding_window(read, 4096) if read.flag("use_sliding_window", default=False) else None
    first = read.integer("max_window_layers", 28)
    kinds = tuple(FULL if sliding_window is None or layer < first else SLIDING for layer in range(layers))
    return [
        with_sliding_window(parts.attention, sliding_window)
        for sliding_window in sliding_windows(read, layers, sliding_window, kinds)
    ]


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }  # fmt: skip
    return [base, {**base, "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}]
