"""Llama 2 and 3, and what shares their shape (TinyLlama, SmolLM2, Yi, DeepSeek distillations)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import EMBEDDING, HEAD, Decoder, DecoderConfig
from ovround.models.rope import rope_from_config


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Llama config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ArchitectureError(f"hidden_act `{activation}` is not supported for llama", hint="supported: silu")
    hidden, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    head_dim = read.integer("head_dim", hidden // max(heads, 1))
    tied = bool(config.get("tie_word_embeddings", False))
    return Decoder(
        DecoderConfig(
            hidden_size=hidden,
            intermediate_size=read.integer("intermediate_size"),
            num_hidden_layers=read.integer("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=read.integer("num_key_value_heads", heads),
            head_dim=head_dim,
            vocab_size=read.integer("vocab_size"),
            max_position_embeddings=read.integer("max_position_embeddings", 2048),
            rms_norm_eps=read.number("rms_norm_eps", 1e-6),
            rope=rope_from_config(config, head_dim),
            tie_word_embeddings=tied,
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        ),
        head_at=EMBEDDING if tied else HEAD,
    )


def smallest_config() -> dict[str, Any]:
    """The smallest config.json that exercises everything: for parity tests on random weights."""
    return {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "attention_bias": True, "mlp_bias": True,
    }  # fmt: skip
