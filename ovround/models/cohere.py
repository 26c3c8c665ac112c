"""Cohere's Command R and Aya: attention and MLP side by side after one layer norm, neighbouring features as pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.norms import PARALLEL_SHARED, Norm
from ovround.models.standard import StandardParts, read_parts, rotated


def read_cohere(config: Mapping[str, Any], theta: float) -> StandardParts:
    """The parts that both generations share: layer norms without biases, an MLP without them, scaled logits."""
    read = ConfigReader({**config, "head_dim": None}, {"rms_norm_eps": "layer_norm_eps"})
    parts = rotated(read, read_parts(read, tied=True, positions=8192, eps=1e-5), theta=theta, interleaved=True)
    norm = Norm("layer", parts.config.hidden_size, parts.norm.eps)
    head = replace(parts.head, norm=norm, scale=read.number("logit_scale", 0.0625))
    return replace(parts, norm=norm, head=head, mlp=replace(parts.mlp, bias=False))


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Cohere config.json describes; raises ArchitectureError for a variant that is not built."""
    parts = read_cohere(config, theta=5e5)
    normed = ConfigReader(config).flag("use_qk_norm", default=False)
    attention = replace(parts.attention, query_key_norm="layer" if normed else None)
    return parts.decoder([attention], places=PARALLEL_SHARED)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "cohere", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    return [
        {**base, "use_qk_norm": True, "logit_scale": 0.5},
        {**base, "attention_bias": True, "tie_word_embeddings": False},
    ]
