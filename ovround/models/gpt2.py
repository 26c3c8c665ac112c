"""GPT-2: learned positions, layer norms, biases; its weights lie transposed, query, key and value joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout, attention_of
from ovround.models.standard import decoder, read_config

_NAMES = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions", "rms_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}  # fmt: skip
_MODULES = {
    "model.embed_tokens": "transformer.wte", "model.embed_positions": "transformer.wpe",
    "model.norm": "transformer.ln_f", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj",
}  # fmt: skip
_IGNORED = (".attn.bias", ".attn.masked_bias")


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GPT-2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, _NAMES)
    read.refuse("add_cross_attention", False)
    found = read_config(
        read, tied=True, activation="gelu_new", positions=1024, eps=1e-5, intermediate_size=4 * read.integer("hidden_size")
    )  # fmt: skip
    scale = found.attention[0].scale if read.flag("scale_attn_weights", default=True) else 1.0
    layers = range(found.num_hidden_layers) if read.flag("scale_attn_by_inverse_layer_idx", default=False) else range(1)
    found = replace(
        found,
        norm="layer",
        norm_bias=True,
        attention=tuple(replace(found.attention[0], scale=scale / (layer + 1)) for layer in layers),
        query_key_value_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated=False,
        positions=True,
    )
    hidden = found.hidden_size
    modules = _MODULES | attention_of("attn.c_attn", hidden, hidden, hidden)
    return decoder(found, Layout(modules, "transformer.h", transposed=True, ignored=_IGNORED))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 160, "n_positions": 256,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return [base, {**base, "n_inner": 96, "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}]
