"""GPT-BigCode (StarCoder, SantaCoder, Granite Code 20B): GPT-2 with one key head for all query heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.gpt2 import IGNORED, MODULES, NAMES
from ovround.models.layout import Layout, attention_of
from ovround.models.parts.ends import Embedding
from ovround.models.standard import read_parts, with_biases


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GPT-BigCode config.json describes; raises ArchitectureError for a variant that is not built."""
    multi_query = ConfigReader(config).flag("multi_query", default=True)
    read = ConfigReader({**config, "head_dim": None, "num_key_value_heads": 1 if multi_query else None}, NAMES)
    read.refuse("add_cross_attention", False)
    hidden = read.integer("hidden_size")
    parts = read_parts(
        read,
        tied=True,
        activation="gelu_pytorch_tanh",
        positions=1024,
        eps=1e-5,
        norm="layer",
        intermediate_size=4 * hidden,
    )
    parts = replace(with_biases(parts, attention=True, output=True, mlp=True), embedding=Embedding(positions=True))
    spec = parts.attention.spec
    scale = spec.scale if read.flag("scale_attn_weights", default=True) else 1.0
    attention = replace(parts.attention, spec=replace(spec, scale=scale))
    size = spec.head_dim
    joined = attention_of("attn.c_attn", hidden if multi_query else size, size, size)
    layout = Layout(MODULES | joined, "transformer.h", ignored=IGNORED)
    return parts.decoder([attention], [replace(parts.mlp, gated=False)], layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gpt_bigcode", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 160, "n_positions": 256,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return [
        base,
        {**base, "n_inner": 96, "multi_query": False, "scale_attn_weights": False, "tie_word_embeddings": False},
    ]
