"""Youtu-LLM: Llama's blocks with DeepSeek-V3's latent attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.deepseek_v3 import latent_layout, read_latent, without_bias
from ovround.models.standard import read_parts


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Youtu-LLM config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = read_parts(without_bias(read), tied=True, positions=131072)
    attention = read_latent(read, parts, query_rank=1536)
    return parts.decoder([attention], layout=latent_layout(attention))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "youtu", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 160, "max_position_embeddings": 256,
        "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
    }  # fmt: skip
    return [base]
