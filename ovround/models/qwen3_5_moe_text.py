"""The text model of Qwen3.5's mixtures: its mixers, and in every block experts beside one that every token takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.qwen2_moe import sparse
from ovround.models.qwen3_5_text import joined
from ovround.models.qwen3_next import hybrid_layout, hybrid_mixers, hybrid_parts, with_defaults

_OF_OTHERS = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}  # of Qwen3-Next; never read here


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that the `text_config` of a Qwen3.5 mixture describes."""
    read = with_defaults(config)
    parts = hybrid_parts(read, intermediate_size=512)
    mixers = hybrid_mixers(read, parts)
    shared = read.integer("shared_expert_intermediate_size", 512)
    read = ConfigReader({**read.config, **_OF_OTHERS})
    decoder = sparse(read, parts, mixers, count=256, top_k=8, size=512, shared_size=shared)
    return replace(decoder, layout=hybrid_layout(decoder, joined(mixers)))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen3_5_moe_text", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160, "max_position_embeddings": 256,
        "full_attention_interval": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "num_experts": 8, "num_experts_per_tok": 3,
        "moe_intermediate_size": 64, "shared_expert_intermediate_size": 96,
    }  # fmt: skip
    return [base]
