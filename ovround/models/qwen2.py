"""Qwen2 and Qwen2.5: Llama with biases on query, key and value, and windows from layer `max_window_layers` on if at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder, DecoderConfig
from ovround.models.standard import FULL, SLIDING, decoder, read_config, read_window, rotated, windows_by_layer


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Qwen2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    found = replace(read_config(read, positions=32768), query_key_value_bias=True, output_bias=False, mlp_bias=False)
    return decoder(with_windows(read, found))


def with_windows(read: ConfigReader, found: DecoderConfig) -> DecoderConfig:
    """Rotation for all layers and, where `use_sliding_window` is set, a window for those that have one."""
    found, layers = rotated(read, found), found.num_hidden_layers
    window = read_window(read, 4096) if read.flag("use_sliding_window", default=False) else None
    first = read.integer("max_window_layers", 28)
    kinds = tuple(FULL if window is None or layer < first else SLIDING for layer in range(layers))
    windows = windows_by_layer(read, layers, window, kinds)
    return replace(found, attention=tuple(replace(found.attention[0], window=one) for one in windows))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }  # fmt: skip
    return [base, {**base, "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}]
