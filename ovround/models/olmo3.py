"""OLMo 3: OLMo 2 with sliding windows in three of four layers, whose rotation is not stretched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layer_ropes import layer_ropes
from ovround.models.parts.norms import POST
from ovround.models.standard import FULL, SLIDING, read_parts, read_sliding_window, sliding_windows

_THETA = 5e5


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an OLMo 3 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = read_parts(read, eps=1e-5)
    layers = parts.config.num_hidden_layers
    kinds = tuple(SLIDING if (layer + 1) % 4 else FULL for layer in range(layers))
    kinds = read.words("layer_types", layers, (FULL, SLIDING)) or kinds
    windows = sliding_windows(read, layers, read_sliding_window(read, 4096), kinds)
    # transformers gives a stated `rope_theta` to the full layers alone
    thetas = {FULL: read.number("rope_theta", _THETA), SLIDING: _THETA}
    ropes = layer_ropes(config, parts.attention.spec.head_dim, thetas)
    attention = replace(parts.attention, query_key_norm="all")
    mixers = [
        replace(attention, spec=replace(attention.spec, rope=ropes[kind], sliding_window=window))
        for kind, window in zip(kinds, windows, strict=True)
    ]
    return parts.decoder(mixers, [replace(parts.mlp, bias=False)], places=POST)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "olmo3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "vocab_size": 160, "max_position_embeddings": 256, "sliding_window": 12,
    }  # fmt: skip
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.2}
    return [
        {**base, "rope_theta": 1e4, "rope_scaling": yarn},
        {
            **base, "num_hidden_layers": 2, "num_key_value_heads": 2, "layer_types": [FULL, SLIDING], "attention_bias": True,
            "rope_parameters": {SLIDING: {"rope_type": "default", "rope_theta": 2e4}},
        },
    ]  # fmt: skip
