"""Mistral 4: DeepSeek-V3's latent attention, with queries that grow with the position, and experts by a softmax, from groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.deepseek_v3 import latent_layout, read_latent, read_mixture, read_routing, without_bias
from ovround.models.parts.attention import PositionScale
from ovround.models.standard import read_parts, read_shares

_SIZES = {"kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 64, "v_head_dim": 128}
_YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 128.0, "original_max_position_embeddings": 8192,
    "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Mistral 4 config.json describes; raises ArchitectureError for a variant that is not built."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or _YARN
    if not isinstance(rope, Mapping):
        raise ArchitectureError(f"config.json: rope_parameters is {rope!r:.40}; an object is needed")
    # of whole heads, whose rotated part `qk_rope_head_dim` states too
    turned = {key: value for key, value in rope.items() if key != "partial_rotary_factor"}
    stated = {**config, "rope_scaling": None, "rope_parameters": turned}
    read = ConfigReader(stated, {"n_routed_experts": ("num_local_experts", "n_routed_experts")})
    parts = read_parts(without_bias(read), positions=1048576)
    attention = read_latent(read, parts, query_rank=1024, sizes=_SIZES)
    scaling = ConfigReader(turned)
    beta = scaling.number("llama_4_scaling_beta", 0.0)
    if beta:
        period = scaling.integer("original_max_position_embeddings", parts.config.max_position_embeddings)
        attention = replace(attention, query_scale=PositionScale(beta, period))
    routing = replace(read_routing(read), scores="softmax", biased=False)
    mixture = read_mixture(read, parts, routing, weights=read_shares(read, default=True), count=128, top_k=4, size=2048)
    first = read.integer("first_k_dense_replace", 0)
    mlps = [parts.mlp if layer < first else mixture for layer in range(parts.config.num_hidden_layers)]
    return parts.decoder([attention], mlps, layout=latent_layout(attention, mixture))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "mistral4", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 160, "max_position_embeddings": 256, "q_lora_rank": 96,
        "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32, "moe_intermediate_size": 64,
        "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
        "rope_parameters": {**_YARN, "factor": 8.0, "original_max_position_embeddings": 12, "llama_4_scaling_beta": 0.5},
    }  # fmt: skip
    other = {
        "q_lora_rank": None, "rope_interleave": False, "attention_bias": True, "norm_topk_prob": False, "n_group": 1,
        "topk_group": 1, "n_shared_experts": 2, "first_k_dense_replace": 0, "routed_scaling_factor": 2.5, "v_head_dim": 16,
        "rope_parameters": {**_YARN, "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.9, "llama_4_scaling_beta": 0.0},
        "tie_word_embeddings": True,
    }  # fmt: skip
    return [base, {**base, **other}]
