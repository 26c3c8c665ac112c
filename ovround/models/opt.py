"""OPT, from 125M to 66B without 350M: learned positions, layer norms, biases, an MLP of ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Fused, Layout
from ovround.models.parts.ends import Embedding
from ovround.models.standard import read_parts, with_biases
from ovround.tensors.tensor_source import Rows

_NAMES = {"intermediate_size": "ffn_dim", "hidden_act": "activation_function"}
_OFFSET = 2  # rows in front of the table's position 0
_MODULES = {
    "model.embed_tokens": "model.decoder.embed_tokens", "model.norm": "model.decoder.final_layer_norm",
    "input_layernorm": "self_attn_layer_norm", "post_attention_layernorm": "final_layer_norm",
    "self_attn.o_proj": "self_attn.out_proj", "mlp.up_proj": "fc1", "mlp.down_proj": "fc2",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an OPT config.json describes; raises ArchitectureError for 350M's order of norms and widths."""
    read = ConfigReader(config, _NAMES)
    read.refuse("do_layer_norm_before", True)
    read.refuse("_remove_final_layer_norm", False)
    read.refuse("layer_norm_elementwise_affine", True)
    parts = read_parts(
        ConfigReader({**config, "rms_norm_eps": 1e-5, "head_dim": None, "num_key_value_heads": None}, _NAMES),
        tied=True,
        activation="relu",
        norm="layer",
    )
    read.refuse("word_embed_proj_dim", parts.config.hidden_size)
    bias = read.flag("enable_bias", default=True)
    parts = with_biases(parts, attention=bias, output=bias, mlp=bias)
    parts = replace(parts, embedding=Embedding(positions=True))
    end = _OFFSET + parts.config.max_position_embeddings
    table = Fused("model.decoder.embed_positions", Rows(_OFFSET, end, end))
    layout = Layout({**_MODULES, "model.embed_positions": table}, "model.decoder.layers")
    return parts.decoder(mlps=[replace(parts.mlp, gated=False)], layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "opt", "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 160, "max_position_embeddings": 256, "word_embed_proj_dim": 64,
    }  # fmt: skip
    return [base]
