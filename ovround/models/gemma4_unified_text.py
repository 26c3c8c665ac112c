"""Gemma 4 without towers, its text model: Gemma 4 without inputs by layer and experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.gemma4_text import build
from ovround.models.standard import FULL, SLIDING

_DEFAULTS = {"num_key_value_heads": 4, "sliding_window": 1024, "max_position_embeddings": 262144}
_WITHOUT = {"hidden_size_per_layer_input": 0, "enable_moe_block": False}  # keys that its class does not read


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Gemma 4 unified text config.json describes; raises ArchitectureError for a variant that is not built."""
    return build(ConfigReader({**_DEFAULTS, **config, **_WITHOUT}))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    return [
        {
            "model_type": "gemma4_unified_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "vocab_size": 160,
            "max_position_embeddings": 256, "sliding_window": 12, "layer_types": [SLIDING, FULL],
            "attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 3.0,
        },
    ]  # fmt: skip
