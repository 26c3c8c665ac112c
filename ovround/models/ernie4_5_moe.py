"""ERNIE 4.5 with experts: chosen by a softmax and a bias, in some of the blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.deepseek_v3 import SHARED, experts_count, read_mixture
from ovround.models.layout import Layout
from ovround.models.ops import Routing
from ovround.models.standard import read_parts, rotated, with_biases

_DEFAULTS = {"num_key_value_heads": 4, "max_position_embeddings": 131072}
_KEYS: dict[str, str | tuple[str, ...]] = {
    "n_routed_experts": ("num_experts", "moe_num_experts"), "num_experts_per_tok": ("num_experts_per_tok", "moe_k"),
    "n_shared_experts": "moe_num_shared_experts",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an ERNIE 4.5 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({**_DEFAULTS, **config}, _KEYS)
    parts = rotated(read, read_parts(read, tied=True, eps=1e-5), theta=5e5, interleaved=True)
    bias, layers = read.flag("use_bias", default=False), parts.config.num_hidden_layers
    parts = with_biases(parts, attention=bias, output=bias, mlp=bias)
    if bias and parts.tied:
        raise ArchitectureError("config.json: `use_bias` with a tied head, whose bias is not supported")
    parts = replace(parts, head=replace(parts.head, bias=bias))
    routing = Routing("softmax", least_sum=read.number("moe_norm_min", 1e-12))
    mixture = read_mixture(read, parts, routing, weights="share", count=64, top_k=6, size=1536, shared=2, bias_axes=1)
    first, last = read.integer("moe_layer_start_index", 1), read.integer("moe_layer_end_index", -1)
    interval = read.integer("moe_layer_interval", 1)
    if interval < 1:
        raise ArchitectureError(f"config.json: `moe_layer_interval` is {interval}; 1 or more is needed")
    sparse = range(first, (layers - 1 if last == -1 else last) + 1)
    mlps = [mixture if layer in sparse and (layer + 1) % interval == 0 else parts.mlp for layer in range(layers)]
    modules = {**SHARED, "mlp.gate.e_score_correction_bias": "mlp.moe_statics.e_score_correction_bias"}
    return parts.decoder(mlps=mlps, layout=Layout(modules, experts_count=experts_count(mixture)))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "ernie4_5_moe", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 32, "moe_norm_min": 0.6, "tie_word_embeddings": False,
        "use_bias": True, "moe_num_shared_experts": 1,
    }  # fmt: skip
    return [base]
