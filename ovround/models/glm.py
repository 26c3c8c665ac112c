"""GLM-4 of 2024 and GLM-Edge: Llama with neighbouring features as pairs, of which half a head is rotated, and joined gate and up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Fused, Layout, fused_rows
from ovround.models.standard import StandardParts, read_parts, rotated, with_biases

_DEFAULTS = {"num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072}


def read_glm(config: Mapping[str, Any]) -> tuple[StandardParts, dict[str, str | Fused]]:
    """The parts that both generations share, and where gate and up lie."""
    read = ConfigReader({**_DEFAULTS, **config})
    parts = read_parts(read, eps=1.5625e-07)
    parts = with_biases(parts, attention=read.flag("attention_bias", default=True), output=False, mlp=False)
    inner = parts.mlp.intermediate_size
    gate, up = fused_rows("mlp.gate_up_proj", inner, inner)
    return rotated(read, parts, partial=0.5, interleaved=True), {"mlp.gate_proj": gate, "mlp.up_proj": up}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GLM config.json describes; raises ArchitectureError for a variant that is not built."""
    parts, modules = read_glm(config)
    return parts.decoder(layout=Layout(modules))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "glm", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 160,
        "max_position_embeddings": 256, "attention_bias": False, "tie_word_embeddings": True,
    }  # fmt: skip
    return [base]
