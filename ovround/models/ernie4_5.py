"""ERNIE 4.5, dense: Llama with neighbouring features as pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.standard import read_parts, rotated, with_biases

_DEFAULTS = {"num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an ERNIE 4.5 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({**_DEFAULTS, **config})
    parts = rotated(read, read_parts(read, tied=True, eps=1e-5), theta=5e5, interleaved=True)
    bias = read.flag("use_bias", default=False)
    return with_biases(parts, attention=bias, output=bias, mlp=bias).decoder()


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "ernie4_5", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "head_dim": 32, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    dynamic = {"rope_type": "dynamic", "factor": 4.0}
    stretched = {"max_position_embeddings": 32, "rope_scaling": dynamic, "use_bias": True, "tie_word_embeddings": False}
    return [base, {**base, **stretched, "head_dim": 16, "num_key_value_heads": 4}]
