"""Phi 1, 1.5 and 2: attention and MLP side by side after one layer norm, biases throughout, half of a head rotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.parts.norms import PARALLEL_SHARED
from ovround.models.standard import read_parts, rotated, with_biases

LAYOUT = Layout(
    {
        "self_attn.o_proj": "self_attn.dense", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2",
        "model.norm": "model.final_layernorm",
    }
)  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Phi config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"rms_norm_eps": "layer_norm_eps"})
    read.refuse("qk_layernorm", False)
    read.refuse("tie_word_embeddings", False)
    parts = read_parts(read, activation="gelu_new", eps=1e-5, norm="layer")
    parts = rotated(read, with_biases(parts, attention=True, output=True, mlp=True), partial=0.5)
    parts = replace(parts, mlp=replace(parts.mlp, gated=False), head=replace(parts.head, bias=True))
    return parts.decoder(places=PARALLEL_SHARED, layout=LAYOUT)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "phi", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 160, "max_position_embeddings": 256, "partial_rotary_factor": 0.5,
    }  # fmt: skip
    return [base, {**base, "partial_rotary_factor": 0.25, "num_key_value_heads": 2}]
