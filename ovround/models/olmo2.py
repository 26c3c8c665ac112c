"""OLMo 2: Llama with norms after attention and MLP instead of before them; norms over whole queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.norms import POST
from ovround.models.standard import read_parts, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an OLMo 2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read, eps=1e-5))
    attention, mlp = replace(parts.attention, query_key_norm="all"), replace(parts.mlp, bias=False)
    return parts.decoder([attention], [mlp], places=POST)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "olmo2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "eos_token_id": 2,
    }  # fmt: skip
    return [base]
