"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts, and beside them one that every token takes, weighed by a gate of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder, DecoderConfig
from ovround.models.layout import Layout
from ovround.models.standard import (
    FULL,
    SLIDING,
    decoder,
    read_config,
    read_experts,
    read_shares,
    read_window,
    rotated,
    windows_by_layer,
)


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Qwen2-MoE config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    found = rotated(read, read_config(read, positions=32768))
    bias, layers = read.flag("qkv_bias", default=True), found.num_hidden_layers
    found = replace(found, query_key_value_bias=bias, output_bias=False, mlp_bias=False)
    window = read_window(read, 4096) if read.flag("use_sliding_window", default=False) else None
    last = read.integer("max_window_layers", 28)
    kinds = tuple(SLIDING if window and layer < last and layer % 2 == 0 else FULL for layer in range(layers))
    windows = windows_by_layer(read, layers, window, kinds)
    found = replace(found, attention=tuple(replace(found.attention[0], window=one) for one in windows))
    found = replace(found, shared_expert_size=read.integer("shared_expert_intermediate_size", 5632))
    return sparse(read, found, count=60, top_k=4, size=1408)


def sparse(read: ConfigReader, found: DecoderConfig, *, count: int, top_k: int, size: int) -> Decoder:
    """Experts in every block but those of `mlp_only_layers`, and in each `decoder_sparse_step`th of them."""
    size, step = read.integer("moe_intermediate_size", size), read.integer("decoder_sparse_step", 1)
    dense = read.config.get("mlp_only_layers") or []
    if step < 1 or not isinstance(dense, list):
        raise ArchitectureError(
            f"config.json: `decoder_sparse_step` is {step}, `mlp_only_layers` {dense!r:.40}; 1 or more, and a list, are needed"
        )
    layers = tuple(at for at in range(found.num_hidden_layers) if at in dense or (at + 1) % step)
    found, count = read_experts(read, found, weights=read_shares(read), count=count, top_k=top_k, size=size)
    return decoder(replace(found, dense_layers=layers), Layout(experts_count=count))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "qwen2_moe", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 128,
    }  # fmt: skip
    windowed = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1, "norm_topk_prob": True}
    return [base, {**base, **windowed, "qkv_bias": False, "mlp_only_layers": [1], "tie_word_embeddings": True}]
