"""InternLM3: Llama by other names of its biases, with a dynamic rotation as it is published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import read_parts, rotated

_SIZES = {"head_dim": 128, "num_key_value_heads": 2}  # what a config.json need not state


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an InternLM3 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(
        {**_SIZES, **config}, {"attention_bias": ("qkv_bias", "attention_bias"), "mlp_bias": ("bias", "mlp_bias")}
    )
    read.refuse("attention_bias", read.flag("mlp_bias", default=False))
    return rotated(read, read_parts(read, positions=32768, eps=1e-5)).decoder()


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "internlm3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    dynamic = {"rope_type": "dynamic", "factor": 6.0}
    return [base, {**base, "qkv_bias": True, "bias": True, "max_position_embeddings": 32, "rope_scaling": dynamic}]
