"""GPT-NeoX and Pythia: attention and MLP side by side, each after its own norm, a part of each head rotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout, attention_of
from ovround.models.parts.norms import PARALLEL, PRE
from ovround.models.standard import read_parts, rotated, with_biases

_MODULES = {
    "model.embed_tokens": "gpt_neox.embed_in", "model.norm": "gpt_neox.final_layer_norm", "lm_head": "embed_out",
    "self_attn.o_proj": "attention.dense", "mlp.up_proj": "mlp.dense_h_to_4h", "mlp.down_proj": "mlp.dense_4h_to_h",
}  # fmt: skip
_IGNORED = (".attention.bias", ".attention.masked_bias")


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GPT-NeoX config.json describes; raises ArchitectureError for a variant that is not built."""
    own = {  # its names rule: those of all families are read within rope_parameters alone
        "rope_theta": config.get("rotary_emb_base"), "partial_rotary_factor": config.get("rotary_pct"),
        "head_dim": None, "num_key_value_heads": None,
    }  # fmt: skip
    read = ConfigReader({**config, **own}, {"rms_norm_eps": "layer_norm_eps"})
    parts = read_parts(read, activation="gelu", eps=1e-5, norm="layer")
    bias = read.flag("attention_bias", default=True)
    parts = rotated(read, with_biases(parts, attention=bias, output=bias, mlp=True), partial=0.25)
    places = PARALLEL if read.flag("use_parallel_residual", default=True) else PRE
    size = parts.attention.spec.head_dim
    modules = _MODULES | attention_of("attention.query_key_value", size, size, size)
    layout = Layout(modules, "gpt_neox.layers", ignored=_IGNORED)
    return parts.decoder(mlps=[replace(parts.mlp, gated=False)], places=places, layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gpt_neox", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 160, "max_position_embeddings": 256, "rotary_pct": 0.25,
    }  # fmt: skip
    return [base, {**base, "use_parallel_residual": False, "attention_bias": False, "rotary_pct": 1.0}]
