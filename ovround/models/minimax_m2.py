"""MiniMax-M2: attention with norms over all heads and partly rotated ones, and experts chosen by sigmoid scores and a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.mixtral import EXPERTS, MODULES
from ovround.models.ops import Routing
from ovround.models.standard import read_experts, read_parts, rotated, with_biases


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a MiniMax-M2 config.json describes; raises ArchitectureError for a variant that is not built."""
    stated = {"head_dim": 128, **config}
    read = ConfigReader(stated, {"num_experts": ("num_experts", "num_local_experts")})
    for key, allowed in (("scoring_func", "sigmoid"), ("use_qk_norm", True), ("qk_norm_type", "per_layer")):
        read.refuse(key, allowed)
    read.refuse("shared_intermediate_size", 0)
    read.refuse("use_routing_bias", True)
    parts = read_parts(read, positions=196608)
    head_dim = parts.attention.spec.head_dim
    turned = read.integer("rotary_dim", head_dim) / head_dim
    parts = rotated(read, with_biases(parts, attention=False, output=False, mlp=False), theta=5e6, partial=turned)
    experts = read_experts(read, parts, weights="share", count=256, top_k=8)
    experts = replace(experts, spec=replace(experts.spec, routing=Routing()))
    modules = {**MODULES, "mlp.gate.e_score_correction_bias": "block_sparse_moe.e_score_correction_bias"}
    layout = Layout(modules, experts=EXPERTS, experts_count=experts.spec.count)
    return parts.decoder([replace(parts.attention, query_key_norm="all")], [experts], layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "minimax_m2", "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "num_local_experts": 6, "num_experts_per_tok": 2, "rotary_dim": 16,
    }  # fmt: skip
    return [base]
