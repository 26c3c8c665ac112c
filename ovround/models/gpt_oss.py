"""gpt-oss: experts with biases and a clamped gate, one attention sink per head, a sliding window in every other layer, YaRN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.ops import ClampedGate
from ovround.models.standard import (
    FULL,
    SLIDING,
    read_experts,
    read_parts,
    read_sliding_window,
    rotated,
    sliding_windows,
    with_biases,
    with_sliding_window,
)

_SIZES = {"head_dim": 64, "num_key_value_heads": 8}  # what a config.json need not state
_ROPE = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a gpt-oss config.json describes; raises ArchitectureError for a variant that is not built."""
    stretched = config.get("rope_parameters") is not None or config.get("rope_scaling")
    stated = {**_SIZES, **config, "hidden_act": None, **({} if stretched else {"rope_scaling": _ROPE})}
    read = ConfigReader(stated, {"num_experts": ("num_experts", "num_local_experts")})
    bias = read.flag("attention_bias", default=True)
    parts = rotated(read, read_parts(read, positions=131072, eps=1e-5), theta=150000.0)
    parts = with_biases(parts, attention=bias, output=bias, mlp=True)
    layers = parts.config.num_hidden_layers
    kinds = tuple(FULL if layer % 2 else SLIDING for layer in range(layers))
    windows = sliding_windows(read, layers, read_sliding_window(read, 128), kinds)
    attention = replace(parts.attention, spec=replace(parts.attention.spec, sinks=True))
    experts = read_experts(read, parts, weights="share", count=128, top_k=4)
    gate = ClampedGate(read.positive("swiglu_alpha", 1.702), read.positive("swiglu_limit", 7.0))
    experts = replace(experts, spec=replace(experts.spec, clamped=gate), router_bias=True)
    layout = Layout({"mlp.gate": "mlp.router"}, experts_count=experts.spec.count, stacked_experts=True)
    return parts.decoder(
        [with_sliding_window(attention, sliding_window) for sliding_window in windows], [experts], layout=layout
    )


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 160,
        "max_position_embeddings": 256, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 12,
        "swiglu_limit": 1.5,
    }  # fmt: skip
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "truncate": False}
    other = {"rope_scaling": yarn, "rope_theta": 10000.0, "attention_bias": False, "num_experts_per_tok": 1}
    return [base, {**base, **other, "swiglu_alpha": 1.0, "layer_types": ["full_attention", "sliding_attention"]}]
