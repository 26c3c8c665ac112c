"""Nemotron 3, 4 and Minitron: layer norms, half of each head rotated, an MLP without gate, of squared ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.standard import read_parts, rotated

LAYOUT = Layout(norm_offset=1.0)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Nemotron config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"rms_norm_eps": "norm_eps"})
    parts = read_parts(read, activation="relu2", positions=4096, eps=1e-5, norm="layer")
    return rotated(read, parts, partial=0.5).decoder(mlps=[replace(parts.mlp, gated=False)], layout=LAYOUT)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "nemotron", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    biased = {"attention_bias": True, "mlp_bias": True, "head_dim": 32, "tie_word_embeddings": True}
    return [base, {**base, **biased, "partial_rotary_factor": 0.25}]
