"""GLM-4 of 2025 (0414, Z1): GLM with norms after attention and MLP too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.decoder import Decoder
from ovround.models.glm import read_glm
from ovround.models.layout import Layout
from ovround.models.parts.norms import SANDWICH

_NORMS = {  # what Gemma 2 calls the norm after attention is that before the MLP here
    "post_attention_layernorm": "post_self_attn_layernorm", "pre_feedforward_layernorm": "post_attention_layernorm",
    "post_feedforward_layernorm": "post_mlp_layernorm",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GLM-4 config.json describes; raises ArchitectureError for a variant that is not built."""
    parts, modules = read_glm(config)
    return parts.decoder(places=SANDWICH, layout=Layout({**modules, **_NORMS}))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "glm4", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 160,
        "max_position_embeddings": 256,
    }  # fmt: skip
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    whole = {"partial_rotary_factor": 1.0, "head_dim": 32, "attention_bias": False}
    return [base, {**base, **whole, "rope_parameters": yarn}]
