"""BLOOM: ALiBi instead of positions, a norm after the embedding, biases, joined query, key and value of each head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout, attention_of
from ovround.models.parts.ends import Embedding
from ovround.models.standard import read_parts, with_biases

_NAMES: Names = {
    "hidden_size": ("n_embed", "hidden_size"), "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_head"), "rms_norm_eps": "layer_norm_epsilon",
    "max_position_embeddings": ("seq_length", "max_position_embeddings"),
}  # fmt: skip
_MODULES = {
    "model.embed_tokens": "transformer.word_embeddings", "model.norm": "transformer.ln_f",
    "model.embed_layernorm": "transformer.word_embeddings_layernorm", "self_attn.o_proj": "self_attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h", "mlp.down_proj": "mlp.dense_4h_to_h",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a BLOOM config.json describes; raises ArchitectureError for a variant that is not built."""
    fixed = dict.fromkeys(("head_dim", "num_key_value_heads", "hidden_act"))  # a BLOOM has no such keys
    read = ConfigReader({**config, **fixed}, _NAMES)
    read.refuse("apply_residual_connection_post_layernorm", False)
    hidden = read.integer("hidden_size")
    parts = read_parts(read, tied=True, activation="gelu_new", eps=1e-5, norm="layer", intermediate_size=4 * hidden)
    parts = with_biases(parts, attention=True, output=True, mlp=True)
    attention = replace(parts.attention, spec=replace(parts.attention.spec, alibi=True))
    mlp = replace(parts.mlp, gated=False)
    size = attention.spec.head_dim
    modules = _MODULES | attention_of("self_attention.query_key_value", size, size, size)
    parts = replace(parts, embedding=Embedding(norm=parts.norm))
    return parts.decoder([attention], [mlp], layout=Layout(modules, "transformer.h"))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 160, "seq_length": 256}
    return [base, {**base, "hidden_size": 96, "n_head": 6}]
