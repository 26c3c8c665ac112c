"""MiniCPM3: latent attention without interleaved pairs, and multipliers of embedding, residual and logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.deepseek_v3 import latent_layout, read_latent
from ovround.models.parts.ends import Embedding
from ovround.models.standard import read_parts


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a MiniCPM3 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = read_parts(
        ConfigReader({**config, "num_key_value_heads": None, "head_dim": None}), tied=True, positions=32768, eps=1e-5
    )
    hidden, layers = parts.config.hidden_size, parts.config.num_hidden_layers
    value = hidden // parts.attention.spec.num_heads
    sizes = {"kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": value}
    attention = read_latent(read, parts, query_rank=768, sizes=sizes, interleaved=False)
    depth = math.sqrt(layers) if _is_null(read, "scale_depth") else read.number("scale_depth", 1.4)
    base = hidden if _is_null(read, "dim_model_base") else read.integer("dim_model_base", 256)
    parts = replace(
        parts,
        embedding=Embedding(scale=read.number("scale_emb", 12.0)),
        head=replace(parts.head, scale=base / hidden),
    )
    return parts.decoder([attention], residual_scale=depth / math.sqrt(layers), layout=latent_layout(attention))


def _is_null(read: ConfigReader, key: str) -> bool:
    """Whether config.json says null, which is not the default here."""
    return key in read.config and read.config[key] is None


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "minicpm3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 160, "max_position_embeddings": 256,
        "q_lora_rank": 96, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "scale_emb": 3,
        "dim_model_base": 32,
    }  # fmt: skip
    longrope = {
        "type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    return [{**base, "rope_scaling": longrope, "max_position_embeddings": 128}]
