"""Gemma: Llama with an embedding times sqrt(hidden_size), a gated GELU, and norms stored less 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.parts.ends import Embedding
from ovround.models.standard import StandardParts, read_activation, read_parts, rotated

LAYOUT = Layout(norm_offset=1.0)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Gemma config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = read_gemma(read, "hidden_act")
    if config.get("hidden_act") == "gelu":  # the first release meant the approximation by tanh
        parts = replace(parts, mlp=replace(parts.mlp, activation="gelu_tanh"))
    return rotated(read, parts).decoder(layout=LAYOUT)


def read_gemma(read: ConfigReader, activation_key: str = "hidden_activation") -> StandardParts:
    """What all Gemmas share; the activation is at `activation_key`."""
    read.refuse("use_bidirectional_attention", False)
    parts = read_parts(ConfigReader({"head_dim": 256, **read.config, "hidden_act": None}), tied=True, positions=8192)
    activation = read_activation(read, activation_key, "gelu_pytorch_tanh")
    mlp = replace(parts.mlp, activation=activation, bias=False)
    return replace(parts, mlp=mlp, embedding=Embedding(scale=parts.config.hidden_size**0.5))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gemma", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256,
    }  # fmt: skip
    return [base]
