"""Falcon: layer norms, an MLP without gate beside the attention, one key head (7B) or groups of them (40B, 180B, Falcon2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout, attention_of
from ovround.models.parts.norms import PARALLEL, PARALLEL_SHARED, PRE
from ovround.models.standard import read_activation, read_parts, rotated, with_biases

_NAMES: Names = {
    "hidden_size": ("n_embed", "hidden_size"), "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_head"), "intermediate_size": "ffn_hidden_size",
    "rms_norm_eps": "layer_norm_epsilon", "num_key_value_heads": "num_kv_heads",
}  # fmt: skip
_MODULES = {
    "model.embed_tokens": "transformer.word_embeddings", "model.norm": "transformer.ln_f",
    "self_attn.o_proj": "self_attention.dense", "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Falcon config.json describes; raises ArchitectureError for ALiBi and other variants not built."""
    grouped = ConfigReader(config).flag("new_decoder_architecture", default=False)
    multi_query = ConfigReader(config).flag("multi_query", default=True)
    # The number of key heads that it states counts for groups alone.
    key_heads = {} if grouped else {"num_kv_heads": 1 if multi_query else None}
    read = ConfigReader({**config, **key_heads}, _NAMES)
    read.refuse("alibi", False)
    hidden = read.integer("hidden_size")
    parts = read_parts(read, tied=True, eps=1e-5, norm="layer", intermediate_size=4 * hidden)
    bias, parallel = read.flag("bias", default=False), read.flag("parallel_attn", default=True)
    two_norms = grouped and parallel and read.integer("num_ln_in_parallel_attn", 2) == 2
    parts = rotated(read, with_biases(parts, attention=bias, output=bias, mlp=bias))
    mlp = replace(parts.mlp, activation=read_activation(read, "activation", "gelu"), gated=False)
    spec = parts.attention.spec
    size, shared = spec.head_dim, spec.num_heads // spec.num_key_value_heads
    # A key head follows the query heads that share it.
    modules = _MODULES | attention_of("self_attention.query_key_value", shared * size, size, size)
    if two_norms:
        modules |= {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"}
    places = PARALLEL if two_norms else PARALLEL_SHARED if parallel or grouped else PRE
    return parts.decoder(mlps=[mlp], places=places, layout=Layout(modules, "transformer.h"))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "falcon", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 160,
        "max_position_embeddings": 256, "alibi": False, "bias": False,
    }  # fmt: skip
    grouped = {**base, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 96}
    return [
        {**base, "multi_query": True, "parallel_attn": True},
        grouped,
        {**grouped, "num_ln_in_parallel_attn": 1, "tie_word_embeddings": False},
        {**base, "multi_query": False, "parallel_attn": False, "bias": True},
    ]
