"""Seed-OSS: Llama with biases of query, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import read_parts, rotated, with_biases

_DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Seed-OSS config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({**_DEFAULTS, **config})
    parts = rotated(read, read_parts(read))
    attention, output = read.flag("attention_bias", default=True), read.flag("attention_out_bias", default=False)
    return with_biases(parts, attention=attention, output=output, mlp=parts.mlp.bias).decoder()


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "seed_oss", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 160,
        "max_position_embeddings": 256,
    }  # fmt: skip
    return [base, {**base, "attention_bias": False, "attention_out_bias": True, "mlp_bias": True}]
