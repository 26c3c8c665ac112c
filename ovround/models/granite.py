"""Granite 3: Llama with multipliers of embedding, attention, residual and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.ends import Embedding
from ovround.models.standard import StandardParts, read_parts, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Granite config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = with_multipliers(read, rotated(read, read_parts(read)))
    return parts.decoder(residual_scale=read.number("residual_multiplier", 1.0))


def with_multipliers(read: ConfigReader, parts: StandardParts) -> StandardParts:
    """`parts` with Granite's multipliers of attention, embedding and logits."""
    spec = replace(parts.attention.spec, scale=read.number("attention_multiplier", 1.0))
    return replace(
        parts,
        attention=replace(parts.attention, spec=spec),
        embedding=Embedding(scale=read.number("embedding_multiplier", 1.0)),
        head=replace(parts.head, scale=1 / read.positive("logits_scaling", 1.0)),
    )


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "granite", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }  # fmt: skip
    multipliers = {
        "embedding_multiplier": 12.0, "attention_multiplier": 0.2, "residual_multiplier": 0.22, "logits_scaling": 8.0,
    }  # fmt: skip
    return [{**base, **multipliers}, {**base, "attention_bias": True, "mlp_bias": True}]
