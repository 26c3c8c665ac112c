"""Hunyuan dense (0.5B to 7B, Hunyuan-MT): Llama in which queries and keys are normed after their rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.standard import read_parts, rotated

LAYOUT = Layout({"self_attn.q_norm": "self_attn.query_layernorm", "self_attn.k_norm": "self_attn.key_layernorm"})


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Hunyuan config.json describes; raises ArchitectureError for a variant that is not built."""
    plain = read_parts(ConfigReader(config), eps=1e-5)
    parts = rotated(ConfigReader(with_alpha(config, plain.attention.spec.head_dim)), plain)
    spec = replace(parts.attention.spec, rotated_norm_eps=parts.norm.eps)
    return parts.decoder([replace(parts.attention, spec=spec)], [replace(parts.mlp, bias=False)], layout=LAYOUT)


def with_alpha(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """`config` whose `dynamic` rotation with an `alpha`, which follows no length, is a plain one with the theta it comes to."""
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    scaling = config.get(key)
    if not isinstance(scaling, Mapping) or scaling.get("rope_type", scaling.get("type")) != "dynamic":
        return dict(config)
    if not scaling.get("alpha") or head_dim < 4:
        return dict(config)
    alpha = ConfigReader(scaling).positive("alpha", 1.0)
    theta = ConfigReader(scaling).number("rope_theta", ConfigReader(config).number("rope_theta", 1e4))
    stretched = theta * alpha ** (head_dim / (head_dim - 2))
    return {**config, key: {"rope_type": "default", "rope_theta": stretched}}


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "hunyuan_v1_dense", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "rope_theta": 1e4,
    }  # fmt: skip
    alpha = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0}
    linear = {"rope_type": "linear", "factor": 2.0}
    return [
        {**base, "rope_scaling": alpha, "tie_word_embeddings": True},
        {**base, "rope_scaling": linear, "attention_bias": True, "num_key_value_heads": 1},
    ]
