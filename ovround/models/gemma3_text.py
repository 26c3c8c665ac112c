"""Gemma 3, its text model: Gemma 2 with normed queries and keys instead of caps; sliding-window layers have their own rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.gemma import LAYOUT, read_gemma
from ovround.models.gemma2 import read_softcap
from ovround.models.layer_ropes import layer_ropes
from ovround.models.parts.norms import SANDWICH
from ovround.models.standard import FULL, SLIDING, read_sliding_window, sliding_windows

_THETA = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Gemma 3 text config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = read_gemma(read)
    longest = read.integer("max_position_embeddings", 131072)
    parts = replace(parts, config=replace(parts.config, max_position_embeddings=longest))
    layers, pattern = parts.config.num_hidden_layers, max(read.integer("sliding_window_pattern", 6), 1)
    kinds = tuple(SLIDING if (layer + 1) % pattern else FULL for layer in range(layers))
    windows = sliding_windows(read, layers, read_sliding_window(read, 4096), kinds)
    spec = replace(
        parts.attention.spec,
        scale=read.positive("query_pre_attn_scalar", 256) ** -0.5,
        softcap=read_softcap(read, "attn_logit_softcapping", None),
    )
    thetas = {kind: read.number(name, default) for kind, (name, default) in _THETA.items()}
    ropes = layer_ropes(config, spec.head_dim, thetas)
    attention = replace(parts.attention, query_key_norm="head")
    mixers = [
        replace(
            attention,
            spec=replace(spec, sliding_window=sliding_window, rope=ropes[FULL if sliding_window is None else SLIDING]),
        )
        for sliding_window in windows
    ]
    head = replace(parts.head, softcap=read_softcap(read, "final_logit_softcapping", None))
    return replace(parts, head=head).decoder(mixers, places=SANDWICH, layout=LAYOUT)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "query_pre_attn_scalar": 24, "sliding_window": 12,
    }  # fmt: skip
    return [
        {**base, "layer_types": [SLIDING, FULL, SLIDING]},
        {
            **base, "sliding_window_pattern": 2, "rope_theta": 5e4, "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
    ]  # fmt: skip
