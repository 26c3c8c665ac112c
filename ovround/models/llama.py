"""Llama 2 and 3, and what shares their shape (TinyLlama, SmolLM2, Yi, DeepSeek distillations)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import read_parts, rotated


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Llama config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    return rotated(read, read_parts(read)).decoder()


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "attention_bias": True, "mlp_bias": True,
    }  # fmt: skip
    llama3 = {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    plain = {**base, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True}
    return [
        base,
        {**plain, "rope_parameters": llama3},
        {**plain, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {**plain, "max_position_embeddings": 32, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {
            **plain,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 8,
            },
        },
    ]
