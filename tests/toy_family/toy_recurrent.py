"""A toy: Llama whose even layers have a gated recurrence in place of attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import read_parts, rotated
from toy_family.gated_recurrence import RecurrentMixer


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a toy_recurrent config.json describes."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read))
    recurrence = RecurrentMixer(parts.config.hidden_size, read.integer("recurrent_size"))
    return parts.decoder([recurrence, parts.attention])


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files, one a variant."""
    base = {
        "model_type": "toy_recurrent", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "recurrent_size": 128,
    }  # fmt: skip
    return [base]
