"""Mixtral: Mistral whose MLPs are experts, each token's weighed by a softmax over those chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.standard import (
    read_experts,
    read_parts,
    read_sliding_window,
    rotated,
    with_biases,
    with_sliding_window,
)

MODULES = {"mlp.gate": "block_sparse_moe.gate", "mlp.experts": "block_sparse_moe.experts"}
EXPERTS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Mixtral config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"num_experts": ("num_experts", "num_local_experts")})
    parts = rotated(read, read_parts(read, positions=131072, eps=1e-5), theta=1e6)
    parts = with_biases(parts, attention=False, output=False, mlp=False)
    attention = with_sliding_window(parts.attention, read_sliding_window(read))
    experts = read_experts(read, parts, weights="share", count=8, top_k=2)
    layout = Layout(MODULES, experts=EXPERTS, experts_count=experts.spec.count)
    return parts.decoder([attention], [experts], layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "num_local_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    return [base, {**base, "sliding_window": 12, "head_dim": 32, "num_local_experts": 3, "num_experts_per_tok": 1}]
