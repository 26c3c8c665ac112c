"""OLMo: Llama with layer norms that have no weights, and bounded queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.norms import Norm
from ovround.models.standard import read_parts, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an OLMo config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read))
    norm = Norm("layer", parts.config.hidden_size, 1e-5, weight=False)
    clip = read.number("clip_qkv", 0.0) if config.get("clip_qkv") is not None else None
    parts = replace(parts, norm=norm, head=replace(parts.head, norm=norm), mlp=replace(parts.mlp, bias=False))
    return parts.decoder([replace(parts.attention, clip=clip)])


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "olmo", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    return [
        {**base, "clip_qkv": 1.5, "num_key_value_heads": 2, "attention_bias": True, "tie_word_embeddings": True},
        base,
    ]
