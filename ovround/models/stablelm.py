"""StableLM: Llama with layer norms and a quarter of each head rotated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.parts.norms import PARALLEL_SHARED, PRE
from ovround.models.standard import read_parts, rotated, with_biases


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a StableLM config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"rms_norm_eps": "layer_norm_eps"})
    read.refuse("qk_layernorm", False)
    parts = read_parts(read, positions=4096, eps=1e-5, norm="layer")
    parts = with_biases(parts, attention=read.flag("use_qkv_bias", default=False), output=False, mlp=False)
    places = PARALLEL_SHARED if read.flag("use_parallel_residual", default=False) else PRE
    return rotated(read, parts, partial=0.25).decoder(places=places)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "stablelm", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "partial_rotary_factor": 0.25,
    }  # fmt: skip
    return [base, {**base, "use_qkv_bias": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5}]
