"""EXAONE 4: Llama with norms after attention and MLP instead of before them, normed queries and keys.

In the large model three of four layers have a sliding window, and the others do not rotate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.norms import POST
from ovround.models.standard import (
    FULL,
    SLIDING,
    read_parts,
    read_sliding_window,
    rotated,
    sliding_windows,
    with_biases,
)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an EXAONE 4 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({"num_key_value_heads": 32, **config})
    parts = rotated(read, read_parts(read, eps=1e-5))
    parts = with_biases(parts, attention=False, output=False, mlp=False)
    layers, window = parts.config.num_hidden_layers, read_sliding_window(read, 4096)
    kinds = (FULL,) * layers
    if window is not None and config.get("layer_types") is None:
        pattern = max(read.integer("sliding_window_pattern", 4), 1)
        kinds = tuple(SLIDING if (layer + 1) % pattern else FULL for layer in range(layers))
    spec = parts.attention.spec
    attention = replace(parts.attention, query_key_norm="head")
    mixers = [
        replace(attention, spec=replace(spec, sliding_window=own, rope=spec.rope if own == window else None))
        for own in sliding_windows(read, layers, window, kinds)
    ]
    return parts.decoder(mixers, places=POST)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "exaone4", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    small = {"sliding_window": None, "layer_types": [FULL, FULL], "tie_word_embeddings": True, "head_dim": 32}
    return [{**base, "sliding_window": 12, "sliding_window_pattern": 2}, {**base, **small}]
