"""Cohere 2 (Command R7B, Command A): three of four layers have a sliding window and rotate, the others do neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.cohere import read_cohere
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.norms import PARALLEL_SHARED
from ovround.models.standard import FULL, SLIDING, read_sliding_window, sliding_windows


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Cohere 2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = read_cohere(config, theta=1e4)
    layers, pattern = parts.config.num_hidden_layers, max(read.integer("sliding_window_pattern", 4), 1)
    kinds = tuple(SLIDING if (layer + 1) % pattern else FULL for layer in range(layers))
    windows = sliding_windows(read, layers, read_sliding_window(read, 4096), kinds)
    spec = parts.attention.spec
    mixers = [
        replace(
            parts.attention,
            spec=replace(spec, sliding_window=sliding_window, rope=None if sliding_window is None else spec.rope),
        )
        for sliding_window in windows
    ]
    return parts.decoder(mixers, places=PARALLEL_SHARED)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "cohere2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "sliding_window": 12,
    }  # fmt: skip
    stated = {"layer_types": [FULL, SLIDING], "attention_bias": True, "logit_scale": 0.25, "tie_word_embeddings": False}
    return [{**base, "sliding_window_pattern": 2}, {**base, **stated}]
