"""OLMo 2: Llama with norms behind attention and MLP instead of in front, whole queries and keys normed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import POST, Decoder
from ovround.models.standard import decoder, read_config, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an OLMo 2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    found = rotated(read, read_config(read, eps=1e-5))
    return decoder(replace(found, mlp_bias=False, norms=POST, query_key_norm="all"))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "olmo2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "eos_token_id": 2,
    }  # fmt: skip
    return [base]
