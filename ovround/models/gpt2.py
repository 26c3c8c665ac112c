"""GPT-2: learned positions, layer norms, biases; its weights lie transposed, query, key and value joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout, attention_of
from ovround.models.parts.ends import Embedding
from ovround.models.standard import read_parts, with_biases

NAMES: Names = {
    "hidden_size": ("hidden_size", "n_embd"), "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_head"), "intermediate_size": "n_inner",
    "max_position_embeddings": ("max_position_embeddings", "n_positions"), "rms_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}  # fmt: skip
MODULES = {
    "model.embed_tokens": "transformer.wte", "model.embed_positions": "transformer.wpe",
    "model.norm": "transformer.ln_f", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj",
}  # fmt: skip
IGNORED = (".attn.bias", ".attn.masked_bias")


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GPT-2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({**config, "head_dim": None, "num_key_value_heads": None}, NAMES)
    read.refuse("add_cross_attention", False)
    hidden = read.integer("hidden_size")
    parts = read_parts(
        read, tied=True, activation="gelu_new", positions=1024, eps=1e-5, norm="layer", intermediate_size=4 * hidden
    )
    parts = with_biases(parts, attention=True, output=True, mlp=True)
    spec = parts.attention.spec
    scale = spec.scale if read.flag("scale_attn_weights", default=True) else 1.0
    by_layer = read.flag("scale_attn_by_inverse_layer_idx", default=False)
    layers = range(parts.config.num_hidden_layers) if by_layer else range(1)
    mixers = [replace(parts.attention, spec=replace(spec, scale=scale / (layer + 1))) for layer in layers]
    layout = Layout(
        MODULES | attention_of("attn.c_attn", hidden, hidden, hidden),
        "transformer.h",
        transposed=True,
        ignored=IGNORED,
    )
    parts = replace(parts, embedding=Embedding(positions=True))
    return parts.decoder(mixers, [replace(parts.mlp, gated=False)], layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 160, "n_positions": 256,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return [base, {**base, "n_inner": 96, "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}]
