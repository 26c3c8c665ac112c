"""Hunyuan with experts (A13B): Hunyuan's attention, and beside the experts one that every token takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.hunyuan_v1_dense import LAYOUT, with_alpha
from ovround.models.layout import Layout
from ovround.models.parts.shared_expert import SharedExpertMlp
from ovround.models.standard import read_experts, read_parts, rotated

_SHARED = {f"mlp.shared_expert.{name}": f"mlp.shared_mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Hunyuan config.json describes; raises ArchitectureError for a variant that is not built.

    Lists with a value for each layer are read where all are equal.
    """
    lists = (
        "num_experts",
        "num_local_experts",
        "moe_topk",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "num_shared_expert",
    )
    stated = {**config, **{key: _same(config, key) for key in lists if isinstance(config.get(key), list)}}
    names = {
        "num_experts": ("num_local_experts", "num_experts"), "num_experts_per_tok": ("num_experts_per_tok", "moe_topk"),
    }  # fmt: skip
    read = ConfigReader(stated, names)
    plain = read_parts(read, eps=1e-5)
    read.refuse("moe_intermediate_size", plain.mlp.intermediate_size)  # what transformers gives every expert
    read.refuse("num_shared_expert", 1)
    read.refuse("use_qk_norm", True)
    read.refuse("use_mla", False)
    read.refuse("use_cla", False)
    parts = rotated(ConfigReader(with_alpha(stated, plain.attention.spec.head_dim)), plain)
    spec = replace(parts.attention.spec, rotated_norm_eps=parts.norm.eps)
    parts = replace(parts, attention=replace(parts.attention, spec=spec), mlp=replace(parts.mlp, bias=False))
    experts = read_experts(read, parts, weights="share", count=1, top_k=1)
    mixture = SharedExpertMlp(experts, parts.mlp, gated=False)
    modules = {**LAYOUT.modules, **_SHARED, "mlp.gate": "mlp.gate.wg"}
    return parts.decoder(mlps=[mixture], layout=Layout(modules, experts_count=experts.spec.count))


def _same(config: Mapping[str, Any], key: str) -> Any:
    """The one value of the list at `key`; the list where values differ, which reading then refuses by the key."""
    values = config[key]
    return values[0] if values and all(value == values[0] for value in values) else values


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "hunyuan_v1_moe", "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "rope_theta": 1e4, "num_experts": 4, "moe_topk": [2, 2],
    }  # fmt: skip
    return [{**base, "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}, "attention_bias": True}]
