"""SmolLM3: Llama with layers that do not rotate, every fourth by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import FULL, SLIDING, read_parts, read_sliding_window, rotated, sliding_windows


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a SmolLM3 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read, tied=True, positions=32768), theta=2e6)
    layers = parts.config.num_hidden_layers
    rotates = config.get("no_rope_layers")
    if rotates is None:
        interval = max(read.integer("no_rope_layer_interval", 4), 1)
        rotates = [(layer + 1) % interval != 0 for layer in range(layers)]
    if not isinstance(rotates, list) or len(rotates) < layers or any(flag not in (0, 1) for flag in rotates):
        raise ArchitectureError(
            f"config.json: `no_rope_layers` is {rotates!r:.60}; {layers} of 1 (rotates) and 0 are needed"
        )
    # transformers asks use_sliding_window only where layer_types is not stated
    switched_on = read.flag("use_sliding_window", default=False) or config.get("layer_types") is not None
    sliding_window = read_sliding_window(read) if switched_on else None
    kinds = tuple(SLIDING if sliding_window and not rotated_layer else FULL for rotated_layer in rotates[:layers])
    spec = parts.attention.spec
    mixers = [
        replace(
            parts.attention, spec=replace(spec, rope=spec.rope if rotated_layer else None, sliding_window=layer_window)
        )
        for rotated_layer, layer_window in zip(
            rotates[:layers], sliding_windows(read, layers, sliding_window, kinds), strict=True
        )
    ]
    return parts.decoder(mixers)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "smollm3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return [{**base, "no_rope_layers": [1, 0, 1]}, {**base, "no_rope_layer_interval": 2, "tie_word_embeddings": False}]
