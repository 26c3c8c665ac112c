"""DeepSeek-V2 and V2-Lite: latent attention, and experts by a softmax, those of V2 from groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.deepseek_v3 import latent_layout, read_latent, read_mixture, refuse_other_choices
from ovround.models.ops import Routing
from ovround.models.standard import read_parts


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a DeepSeek-V2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"n_routed_experts": ("num_experts", "n_routed_experts")})
    refuse_other_choices(read, "softmax", "greedy", "group_limited_greedy")
    read.refuse("norm_topk_prob", False)  # transformers 5.24 does not read it, the model's own code does
    parts = read_parts(ConfigReader({**config, "num_key_value_heads": None, "head_dim": None}))
    attention = read_latent(read, parts, query_rank=1536, interleaved=True)
    grouped = config.get("topk_method") == "group_limited_greedy"
    routing = Routing(
        "softmax",
        biased=False,
        groups=read.integer("n_group") if grouped else 1,
        top_groups=read.integer("topk_group") if grouped else 1,
        group_score="highest",
        factor=read.number("routed_scaling_factor", 1.0),
    )
    mixture = read_mixture(read, parts, routing, weights="probability", count=64, top_k=None, size=1407, shared=2)
    first = read.integer("first_k_dense_replace", 0)
    mlps = [parts.mlp if layer < first else mixture for layer in range(parts.config.num_hidden_layers)]
    return parts.decoder([attention], mlps, layout=latent_layout(attention, mixture))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "deepseek_v2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 160, "max_position_embeddings": 256,
        "q_lora_rank": None, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
        "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        "rms_norm_eps": 1e-5,
    }  # fmt: skip
    yarn = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "mscale": 0.7, "mscale_all_dim": 0.7}
    groups = {
        "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "n_routed_experts": 8,
        "routed_scaling_factor": 2.0, "n_shared_experts": 1, "first_k_dense_replace": 0,
    }  # fmt: skip
    return [
        {**base, "rope_scaling": yarn},
        {**base, **groups, "q_lora_rank": 64, "attention_bias": True, "mlp_bias": True},
    ]
