"""Granite 3 with experts: Granite's multipliers and attention, each token's experts weighed by a softmax over those chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.granite import with_multipliers
from ovround.models.layout import Fused, Layout, fused_rows
from ovround.models.parts.part import Part
from ovround.models.parts.shared_expert import SharedExpertMlp
from ovround.models.standard import read_experts, read_parts, rotated

STACKS = {"gate_up_proj": "block_sparse_moe.input_linear.weight", "down_proj": "block_sparse_moe.output_linear.weight"}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a granitemoe config.json describes; raises ArchitectureError for a variant that is not built."""
    return sparse(config, shared_size=0)


def sparse(config: Mapping[str, Any], *, shared_size: int) -> Decoder:
    """Granite with experts in every block, and beside them one of `shared_size` where that is above 0."""
    read = ConfigReader({**config, "mlp_bias": False}, {"num_experts": "num_local_experts"})
    parts = with_multipliers(read, rotated(read, read_parts(read)))
    experts = read_experts(read, parts, weights="share", count=8, top_k=2)
    modules: dict[str, str | Fused] = {"mlp.gate": "block_sparse_moe.router.layer"}
    mixture: Part = experts
    if shared_size:
        mixture = SharedExpertMlp(experts, replace(parts.mlp, intermediate_size=shared_size), gated=False)
        gate, up = fused_rows("shared_mlp.input_linear", shared_size, shared_size)
        modules |= {"mlp.shared_expert.gate_proj": gate, "mlp.shared_expert.up_proj": up}
        modules["mlp.shared_expert.down_proj"] = "shared_mlp.output_linear"
    layout = Layout(modules, experts_count=experts.spec.count, stacks=STACKS, experts_joined=True)
    scale = read.number("residual_multiplier", 1.0)
    return parts.decoder(mlps=[mixture], residual_scale=scale, layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "granitemoe", "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.2, "residual_multiplier": 0.22,
        "embedding_multiplier": 12.0, "logits_scaling": 8.0, "attention_bias": True,
    }  # fmt: skip
    return [base]
