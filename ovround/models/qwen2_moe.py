"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts, and beside them one that every token takes, weighed by a gate of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.parts.part import Part
from ovround.models.parts.shared_expert import SharedExpertMlp
from ovround.models.standard import (
    FULL,
    SLIDING,
    StandardParts,
    read_experts,
    read_parts,
    read_shares,
    read_sliding_window,
    rotated,
    sliding_windows,
    with_biases,
    with_sliding_window,
)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Qwen2-MoE config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read, positions=32768))
    bias, layers = read.flag("qkv_bias", default=True), parts.config.num_hidden_layers
    parts = with_biases(parts, attention=bias, output=False, mlp=False)
    sliding_window = read_sliding_window(read, 4096) if read.flag("use_sliding_window", default=False) else None
    last = read.integer("max_window_layers", 28)
    kinds = tuple(SLIDING if sliding_window and layer < last and layer % 2 == 0 else FULL for layer in range(layers))
    windows = sliding_windows(read, layers, sliding_window, kinds)
    shared_size = read.integer("shared_expert_intermediate_size", 5632)
    mixers = [with_sliding_window(parts.attention, sliding_window) for sliding_window in windows]
    return sparse(read, parts, mixers, count=60, top_k=4, size=1408, shared_size=shared_size)


def sparse(
    read: ConfigReader,
    parts: StandardParts,
    mixers: Sequence[Part],
    *,
    count: int,
    top_k: int,
    size: int,
    shared_size: int = 0,
) -> Decoder:
    """Experts in every block but those of `mlp_only_layers`, and in each `decoder_sparse_step`th of them.

    Beside them one of `shared_size` that every token takes, where that is above 0.
    """
    size, step = read.integer("moe_intermediate_size", size), read.integer("decoder_sparse_step", 1)
    dense = read.config.get("mlp_only_layers") or []
    if step < 1 or not isinstance(dense, list):
        raise ArchitectureError(
            f"config.json: `decoder_sparse_step` is {step}, `mlp_only_layers` {dense!r:.40}; 1 or more, and a list, are needed"
        )
    experts = read_experts(read, parts, weights=read_shares(read), count=count, top_k=top_k, size=size)
    mixture: Part = experts
    if shared_size:
        mixture = SharedExpertMlp(experts, replace(parts.mlp, intermediate_size=shared_size))
    layers = range(parts.config.num_hidden_layers)
    mlps = [parts.mlp if layer in dense or (layer + 1) % step else mixture for layer in layers]
    return parts.decoder(mixers, mlps, layout=Layout(experts_count=experts.spec.count))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen2_moe", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 128,
    }  # fmt: skip
    windowed = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1, "norm_topk_prob": True}
    return [base, {**base, **windowed, "qkv_bias": False, "mlp_only_layers": [1], "tie_word_embeddings": True}]
