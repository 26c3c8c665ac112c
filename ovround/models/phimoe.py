"""Phi-3.5-MoE: Mixtral with layer norms, biases, LongRoPE, and experts chosen one after the other (SparseMixer).

transformers 5.23 turns by the short factors at any length (its rotary embedding computes the frequencies once more, without
the length). The model's own code takes the long ones beyond the trained length, and so do we; the tests stay below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.mixtral import EXPERTS, MODULES
from ovround.models.standard import read_experts, read_parts, read_sliding_window, rotated, with_sliding_window


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Phi-3.5-MoE config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(_respelled(config), {"num_experts": "num_local_experts"})
    read.refuse("num_experts_per_tok", 2)
    parts = rotated(read, read_parts(read, positions=131072, eps=1e-5, norm="layer"), theta=1e6)
    head = replace(parts.head, bias=read.flag("lm_head_bias", default=False))
    parts = replace(parts, mlp=replace(parts.mlp, bias=False), head=head)
    attention = with_sliding_window(parts.attention, read_sliding_window(read))
    experts = read_experts(read, parts, weights="sparsemixer", count=16, top_k=2)
    tolerance = 2 * read.number("router_jitter_noise", 0.01)
    experts = replace(experts, spec=replace(experts.spec, tolerance=tolerance))
    layout = Layout(MODULES, experts=EXPERTS, experts_count=experts.spec.count)
    return parts.decoder([attention], [experts], layout=layout)


def _respelled(config: Mapping[str, Any]) -> dict[str, Any]:
    """`short_mscale` and `long_mscale`, equal in every published model, are LongRoPE's attention factor."""
    changed = dict(config)
    for key in ("rope_parameters", "rope_scaling"):
        scaling = config.get(key)
        if isinstance(scaling, Mapping) and "long_mscale" in scaling:
            factors = scaling.get("short_mscale"), scaling["long_mscale"]
            if factors[0] != factors[1]:
                raise ArchitectureError(
                    f"short_mscale and long_mscale are {factors[0]} and {factors[1]}; equal ones are supported"
                )
            changed[key] = {**scaling, "attention_factor": factors[1]}
    return changed


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "phimoe", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True,
    }  # fmt: skip
    longrope = {
        "type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
        "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0], "short_mscale": 1.2, "long_mscale": 1.2,
        "original_max_position_embeddings": 128,
    }  # fmt: skip
    stretched = {"original_max_position_embeddings": 128, "rope_scaling": longrope, "router_jitter_noise": 0.2}
    return [base, {**base, **stretched, "attention_bias": False, "lm_head_bias": False}]
