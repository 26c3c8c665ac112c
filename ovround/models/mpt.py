"""MPT: ALiBi instead of positions, layer norms without biases, an MLP without gate, bounded queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout, attention_of
from ovround.models.parts.norms import Norm
from ovround.models.standard import read_parts, with_biases

_NAMES: Names = {
    "hidden_size": ("hidden_size", "d_model"), "num_hidden_layers": ("num_hidden_layers", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_heads"), "max_position_embeddings": "max_seq_len",
    "rms_norm_eps": "layer_norm_epsilon",
}  # fmt: skip
_MODULES = {
    "model.embed_tokens": "transformer.wte", "model.norm": "transformer.norm_f", "input_layernorm": "norm_1",
    "post_attention_layernorm": "norm_2", "self_attn.o_proj": "attn.out_proj", "mlp.up_proj": "ffn.up_proj",
    "mlp.down_proj": "ffn.down_proj",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an MPT config.json describes; raises ArchitectureError for a variant that is not built."""
    fixed = dict.fromkeys(("head_dim", "num_key_value_heads", "hidden_act", "intermediate_size"))
    read, inner = ConfigReader({**config, **fixed}, _NAMES), _attention(config)
    read.refuse("expansion_ratio", 4)
    read.refuse("no_bias", True)
    read.refuse("logit_scale")
    read.refuse("norm_type", "low_precision_layernorm", "layernorm")
    hidden = read.integer("hidden_size")
    parts = read_parts(read, tied=True, activation="gelu", eps=1e-5, norm="layer", intermediate_size=4 * hidden)
    parts = with_biases(parts, attention=False, output=False, mlp=False)
    spec = parts.attention.spec
    spec = replace(spec, alibi=True, scale=inner.number("softmax_scale", spec.scale))
    attention = replace(parts.attention, spec=spec, clip=inner.number("clip_qkv", 0.0) or None)
    norm = Norm("layer", hidden, parts.norm.eps)
    parts = replace(parts, norm=norm, head=replace(parts.head, norm=norm))
    layout = Layout(_MODULES | attention_of("attn.Wqkv", hidden, hidden, hidden), "transformer.blocks")
    return parts.decoder([attention], [replace(parts.mlp, gated=False)], layout=layout)


def _attention(config: Mapping[str, Any]) -> ConfigReader:
    """`attn_config`, whose variants transformers reads and leaves out of the computation."""
    inner = config.get("attn_config") or {}
    if not isinstance(inner, Mapping):
        raise ArchitectureError(f"config.json: `attn_config` is {inner!r:.40}; an object is needed")
    read = ConfigReader(inner)
    read.refuse("attn_type", "multihead_attention")
    read.refuse("alibi", True)
    read.refuse("alibi_bias_max", 8)
    for key in ("qk_ln", "prefix_lm", "attn_uses_sequence_id"):
        read.refuse(key, False)
    return read


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {"model_type": "mpt", "d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 160, "max_seq_len": 256}
    bounded = {"clip_qkv": 1.5, "softmax_scale": 0.2}
    return [{**base, "d_model": 96, "n_heads": 6, "attn_config": bounded}, {**base, "tie_word_embeddings": False}]
