"""GLM-4.7-Flash: DeepSeek-V3's latent attention and choice of experts, with larger heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import Decoder
from ovround.models.deepseek_v3 import (
    latent_layout,
    read_latent,
    read_mixture,
    read_routing,
    refuse_other_choices,
    without_bias,
)
from ovround.models.standard import read_parts, read_shares

_NAMES: Names = {
    "n_routed_experts": ("num_local_experts", "n_routed_experts"),
    "qk_rope_head_dim": ("head_dim", "qk_rope_head_dim"),  # transformers' class takes the one for the other
}
_SIZES = {"kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GLM-4.7-Flash config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, _NAMES)
    refuse_other_choices(read, "sigmoid", "noaux_tc")
    parts = read_parts(without_bias(read), positions=202752, eps=1e-5)
    attention = read_latent(read, parts, query_rank=768, sizes=_SIZES)
    routing = read_routing(read, factor=1.8)
    mixture = read_mixture(read, parts, routing, weights=read_shares(read, default=True), count=64, top_k=4, size=1536)
    layers = parts.config.num_hidden_layers
    kinds = read.words("mlp_layer_types", layers, ("dense", "sparse"))
    if kinds is None:
        read.refuse("first_k_dense_replace", 1)  # transformers does not read it
        kinds = ("dense", *("sparse",) * (layers - 1))
    mlps = [parts.mlp if kind == "dense" else mixture for kind in kinds]
    return parts.decoder([attention], mlps, layout=latent_layout(attention, mixture))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "glm4_moe_lite", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 160, "max_position_embeddings": 256,
        "q_lora_rank": 96, "kv_lora_rank": 32, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8, "v_head_dim": 32,
        "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "mlp_layer_types": ["sparse", "dense"],
    }  # fmt: skip
    return [base]
