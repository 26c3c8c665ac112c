"""Apertus: Llama with normed queries and keys, and an MLP without gate whose activation, xIELU, is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.standard import read_parts, rotated

LAYOUT = Layout(
    {"input_layernorm": "attention_layernorm", "post_attention_layernorm": "feedforward_layernorm"},
    ignored=(".mlp.act_fn.beta", ".mlp.act_fn.eps"),  # constants
)
_XIELU = "xielu"
_ROPE = {
    "rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an Apertus config.json describes; raises ArchitectureError for a variant that is not built."""
    stated = dict(config) if config.get("rope_parameters") is not None else {**config, "rope_parameters": _ROPE}
    learned = config.get("hidden_act") in (None, _XIELU)
    read = ConfigReader({**stated, "hidden_act": None} if learned else stated)
    parts = rotated(read, read_parts(read, positions=65536, eps=1e-5), theta=12e6)
    mlp = replace(parts.mlp, gated=False, bias=False, xielu=learned)
    return parts.decoder([replace(parts.attention, query_key_norm="head")], [mlp], layout=LAYOUT)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "apertus", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    return [base, {**base, "hidden_act": "relu2", "attention_bias": True, "tie_word_embeddings": True}]
