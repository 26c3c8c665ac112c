"""GLM-4.5 to 4.7: attention with half-rotated heads, and DeepSeek-V3's choice of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.deepseek_v3 import SHARED, experts_count, read_mixture, read_routing, refuse_other_choices
from ovround.models.layout import Layout
from ovround.models.standard import read_parts, read_shares, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GLM-4.5 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({**config, "mlp_bias": False}, {"n_routed_experts": ("num_local_experts", "n_routed_experts")})
    refuse_other_choices(read, "sigmoid", "noaux_tc")
    parts = rotated(read, read_parts(read, positions=131072, eps=1e-5), partial=0.5)
    attention = replace(parts.attention, output_bias=False)
    if read.flag("use_qk_norm", default=False):
        attention = replace(attention, query_key_norm="head")
    weights = read_shares(read, default=True)
    mixture = read_mixture(read, parts, read_routing(read), weights=weights, count=128, top_k=8, size=1408)
    first = read.integer("first_k_dense_replace", 1)
    mlps = [parts.mlp if layer < first else mixture for layer in range(parts.config.num_hidden_layers)]
    return parts.decoder([attention], mlps, layout=Layout(SHARED, experts_count=experts_count(mixture)))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "glm4_moe", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "use_qk_norm": True, "attention_bias": True, "routed_scaling_factor": 2.5,
    }  # fmt: skip
    return [base]
