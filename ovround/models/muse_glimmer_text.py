"""Muse Glimmer, its text model: gated attention with norms without weights, windows, and layers that do not rotate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.block import Block
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.models.layout import Layout
from ovround.models.parts.attention import SelfAttention
from ovround.models.parts.ends import NORM, Embedding
from ovround.models.parts.norms import SANDWICH, Norm
from ovround.models.standard import FULL, SLIDING, StandardParts, read_parts, rotated, sliding_windows, with_biases

_DEFAULTS = {"num_key_value_heads": 2, "head_dim": 128, "sliding_window": 2048}
_PERIOD = 4  # every fourth layer, counted from the last, sees everything and does not rotate


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Muse Glimmer text config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({**_DEFAULTS, **config}, {"hidden_act": "hidden_activation"})
    parts = rotated(read, read_parts(read, positions=131072, eps=1e-5))
    bias = parts.attention.bias
    parts = with_biases(parts, attention=bias, output=bias, mlp=False)
    hidden, eps = parts.config.hidden_size, parts.norm.eps
    head = replace(
        parts.head,
        scale=read.number("output_multiplier", 0.19611613513818404),
        softcap=read.positive("final_logit_softcapping", 20.0),
    )
    after = replace(parts.norm, eps=read.number("post_norm_eps", 1e-8))
    blocks = tuple(Block(parts.norm, (mixer, parts.mlp), SANDWICH, after=after) for mixer in _mixers(read, parts))
    embedding = Embedding(norm=Norm("rms", hidden, eps, weight=False))
    layout = Layout({"self_attn.output_gate_proj": "self_attn.gate_proj"}, norm_offset=1.0, whole_norms=(NORM,))
    return Decoder(parts.config, embedding, blocks, head, EMBEDDING if parts.tied else HEAD, layout)


def _mixers(read: ConfigReader, parts: StandardParts) -> list[SelfAttention]:
    """Each layer's attention; that of a layer whose `layer_rope_theta` is 0 does not rotate, others all turn by one theta."""
    layers = range(parts.config.num_hidden_layers)
    whole = [(layer - len(layers) + 1) % _PERIOD == 0 for layer in layers]
    kinds = tuple(FULL if full else SLIDING for full in whole)
    windows = sliding_windows(read, len(layers), read.integer("sliding_window"), kinds)
    thetas = read.config.get("layer_rope_theta")
    thetas = [float(not full) for full in whole] if thetas is None else thetas
    if not isinstance(thetas, list) or len(thetas) < len(layers) or any(not isinstance(x, int | float) for x in thetas):
        raise ArchitectureError(
            f"config.json: `layer_rope_theta` is {thetas!r:.60}; a number for each of {len(layers)} layers is needed"
        )
    spec = parts.attention.spec
    # the factor of queries is one of scores
    spec = replace(spec, scale=spec.scale * read.number("qk_scale_factor", 3.87))
    attention = replace(parts.attention, query_key_norm="plain", output_gate=True, gate_bias=False)
    return [
        replace(attention, spec=replace(spec, rope=spec.rope if theta else None, sliding_window=window))
        for theta, window in zip(thetas, windows, strict=False)
    ]


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "muse_glimmer_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160, "sliding_window": 12,
        "max_position_embeddings": 256,
    }  # fmt: skip
    variant = {
        "layer_types": [FULL, SLIDING], "layer_rope_theta": [1e4, 0], "attention_bias": True, "qk_scale_factor": 1.5,
        "output_multiplier": 0.5, "final_logit_softcapping": 4.0, "post_norm_eps": 1e-2, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4},
    }  # fmt: skip
    return [base, {**base, **variant}]
