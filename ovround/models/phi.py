"""Phi 1, 1.5 and 2: attention and MLP side by side behind one layer norm, biases throughout, half of a head rotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import PARALLEL_SHARED, Decoder
from ovround.models.layout import Layout
from ovround.models.standard import decoder, read_config, rotated

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
    found = read_config(read, activation="gelu_new", eps=1e-5)
    found = replace(
        found,
        norm="layer",
        norm_bias=True,
        norms=PARALLEL_SHARED,
        query_key_value_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        gated=False,
    )
    return decoder(rotated(read, found, partial=0.5), LAYOUT)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "phi", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 160, "max_position_embeddings": 256, "partial_rotary_factor": 0.5,
    }  # fmt: skip
    return [base, {**base, "partial_rotary_factor": 0.25, "num_key_value_heads": 2}]
