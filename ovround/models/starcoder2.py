"""StarCoder2: layer norms, biases, an MLP without gate, and a sliding window where `sliding_window` gives one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.standard import read_parts, read_sliding_window, rotated, with_biases, with_sliding_window

LAYOUT = Layout({"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"})


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a StarCoder2 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"rms_norm_eps": "norm_epsilon"})
    parts = read_parts(read, tied=True, activation="gelu_pytorch_tanh", positions=4096, eps=1e-5, norm="layer")
    bias = read.flag("use_bias", default=True)
    parts = rotated(read, with_biases(parts, attention=bias, output=bias, mlp=bias))
    attention = with_sliding_window(parts.attention, read_sliding_window(read))
    return parts.decoder([attention], [replace(parts.mlp, gated=False)], layout=LAYOUT)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "starcoder2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
    }  # fmt: skip
    return [{**base, "sliding_window": 12}, {**base, "use_bias": False, "tie_word_embeddings": False}]
