"""Gemma 2: Gemma with norms around attention and MLP, soft caps, and a sliding window in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.gemma import LAYOUT, read_gemma
from ovround.models.parts.norms import SANDWICH
from ovround.models.standard import FULL, SLIDING, read_sliding_window, rotated, sliding_windows, with_sliding_window


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Gemma 2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_gemma(read))
    layers = parts.config.num_hidden_layers
    kinds = tuple(FULL if layer % 2 else SLIDING for layer in range(layers))
    spec = replace(
        parts.attention.spec,
        scale=read.positive("query_pre_attn_scalar", 256) ** -0.5,
        softcap=read_softcap(read, "attn_logit_softcapping", 50.0),
    )
    attention = replace(parts.attention, spec=spec)
    windows = sliding_windows(read, layers, read_sliding_window(read, 4096), kinds)
    head = replace(parts.head, softcap=read_softcap(read, "final_logit_softcapping", 30.0))
    mixers = [with_sliding_window(attention, sliding_window) for sliding_window in windows]
    return replace(parts, head=head).decoder(mixers, places=SANDWICH, layout=LAYOUT)


def read_softcap(read: ConfigReader, key: str, default: float | None) -> float | None:
    """The cap at `key`; null says that there is none, a missing key the family's default."""
    if key in read.config and read.config[key] is None:
        return None
    return read.number(key, default or 0.0) or None


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gemma2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "query_pre_attn_scalar": 24, "sliding_window": 12,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
    }  # fmt: skip
    return [base, {**base, "attn_logit_softcapping": None, "final_logit_softcapping": None}]
