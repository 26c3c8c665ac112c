"""Ministral 3: Mistral with yarn, and queries that attend more sharply far beyond the trained length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.attention import PositionScale
from ovround.models.standard import read_parts, read_sliding_window, rotated, with_biases, with_sliding_window

_DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144}
_YARN = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
    "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Ministral 3 config.json describes; raises ArchitectureError for a variant that is not built."""
    stated = {**_DEFAULTS, **config}
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    stated |= {} if rope else {"rope_parameters": _YARN}
    read = ConfigReader(stated)
    parts = rotated(read, read_parts(read, eps=1e-5))
    parts = with_biases(parts, attention=False, output=False, mlp=False)
    attention = with_sliding_window(parts.attention, read_sliding_window(read))
    scaling = ConfigReader(rope or _YARN)  # an object, or `rotated` had refused it
    beta = scaling.number("llama_4_scaling_beta", 0.0)
    if beta:
        period = scaling.integer("original_max_position_embeddings", parts.config.max_position_embeddings)
        attention = replace(attention, query_scale=PositionScale(beta, period))
    return parts.decoder([attention])


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "ministral3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256,
    }  # fmt: skip
    yarn = {**_YARN, "factor": 8.0, "original_max_position_embeddings": 12, "llama_4_scaling_beta": 0.5}
    return [{**base, "rope_parameters": yarn}, {**base, "sliding_window": 12, "tie_word_embeddings": True}]
