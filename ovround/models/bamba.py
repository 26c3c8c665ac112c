"""Bamba: Mamba 2, and attention with half of each head rotated in the blocks that `attn_layer_indices` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.mamba2_config import mamba_modules, read_mamba2
from ovround.models.standard import read_parts, rotated

_LAYOUT = {
    **{f"mlp.{kind}_proj": f"feed_forward.{kind}_proj" for kind in ("gate", "up", "down")},
    "post_attention_layernorm": "pre_ff_layernorm", "model.norm": "model.final_layernorm",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Bamba config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read, positions=262_144, eps=1e-5), partial=0.5)
    mamba, attending = read_mamba2(read, parts), config.get("attn_layer_indices") or []
    if not isinstance(attending, list):
        raise ArchitectureError(f"config.json: `attn_layer_indices` is {attending!r:.40}; a list is needed")
    layers = range(parts.config.num_hidden_layers)
    mixers = [parts.attention if layer in attending else mamba for layer in layers]
    return parts.decoder(mixers, layout=Layout({**_LAYOUT, **mamba_modules(mamba)}))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "bamba", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_n_groups": 2, "attn_layer_indices": [1],
    }  # fmt: skip
    return [base]
