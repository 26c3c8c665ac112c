"""Gemma 3n, its text model: several streams of hidden states, learned residuals, inputs by layer, and caches that layers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.altup_block import PLACES, altup_block
from ovround.models.block import Block
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.models.gemma import read_gemma
from ovround.models.gemma2 import read_softcap
from ovround.models.gemma3_text import THETA
from ovround.models.gemma4_text import cache_sources, per_layer_modules, unread
from ovround.models.layer_ropes import layer_ropes
from ovround.models.layout import Layout
from ovround.models.parts.altup import Streams
from ovround.models.parts.dense import DenseMlp
from ovround.models.parts.laurel import Laurel
from ovround.models.parts.part import check_size
from ovround.models.parts.per_layer_input import PerLayerInput
from ovround.models.standard import FULL, SLIDING, StandardParts

_DEFAULTS = {"num_key_value_heads": 2, "intermediate_size": 16384, "max_position_embeddings": 32768}
_MOST_STREAMS = 64
_SCALE = "altup.correct_output_scale"


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Gemma 3n text config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader({**_DEFAULTS, **config})
    parts = read_gemma(ConfigReader({**read.config, "intermediate_size": 1}))  # a list in many files
    layers = parts.config.num_hidden_layers
    every_fifth = tuple(FULL if layer % 5 == 4 else SLIDING for layer in range(layers))
    kinds = read.words("layer_types", layers, (FULL, SLIDING)) or every_fifth
    sources = cache_sources(kinds, read.integer("num_kv_shared_layers", 15))
    thetas = {kind: read.number(name, default) for kind, (name, default) in THETA.items()}
    ropes = layer_ropes(read.config, parts.attention.spec.head_dim, thetas)
    window = read.integer("sliding_window", 512)
    attention = replace(parts.attention, query_key_norm="head", value_norm=True)
    mixers = [
        replace(
            attention,
            spec=replace(
                attention.spec,
                scale=1.0,
                rope=ropes[kind],
                sliding_window=window if kind == SLIDING else None,
                cache_of=sources[layer],
                shared=layer in sources,
            ),
        )
        for layer, kind in enumerate(kinds)
    ]
    count, active, scaled = _streams(read)
    laurel = Laurel(parts.norm, read.integer("laurel_rank", 64))
    given = _per_layer_input(read, parts)
    blocks = tuple(
        altup_block(Block(parts.norm, (mixer, laurel, mlp, given), PLACES), count, active, scaled=scaled)
        for mixer, mlp in zip(mixers, _mlps(read, parts.mlp, layers), strict=True)
    )
    streams = Streams(count, parts.config.hidden_size)
    head = replace(parts.head, softcap=read_softcap(read, "final_logit_softcapping", 30.0), streams=streams)
    embedding = replace(parts.embedding, shared=True, streams=streams)
    ignored = (*unread(sources), *(() if scaled else (_SCALE,)))
    layout = Layout(per_layer_modules(layers), ignored=ignored)
    return Decoder(parts.config, embedding, blocks, head, EMBEDDING if parts.tied else HEAD, layout)


def _streams(read: ConfigReader) -> tuple[int, int, bool]:
    """How many streams there are, which one the blocks compute, and whether what it gives is scaled."""
    count, active = read.integer("altup_num_inputs", 4), read.integer("altup_active_idx", 0)
    check_size("altup_num_inputs", count, _MOST_STREAMS)
    if not 0 <= active < count:
        raise ArchitectureError(f"config.json: `altup_active_idx` is {active}; 0 to {count - 1} is allowed")
    return count, active, read.flag("altup_correct_scale", default=True)


def _per_layer_input(read: ConfigReader, parts: StandardParts) -> PerLayerInput:
    size = read.integer("hidden_size_per_layer_input", 256)
    rows = read.integer("vocab_size_per_layer_input", 262_144)
    config = parts.config
    return PerLayerInput(
        config.hidden_size, size, rows, parts.mlp.activation, parts.norm.eps, partial=rows < config.vocab_size
    )


def _mlps(read: ConfigReader, mlp: DenseMlp, layers: int) -> list[DenseMlp]:
    """Each layer's MLP: its size, and the share of its gate that becomes 0."""
    sizes = read.config["intermediate_size"]
    sizes = sizes if isinstance(sizes, list) else [sizes] * layers
    sparsity: Any = read.config.get("activation_sparsity_pattern")
    if sparsity is None:
        sparse = 10 if layers > 10 else 0
        sparsity = [0.95] * sparse + [0.0] * (layers - sparse)
    for key, values in (("intermediate_size", sizes), ("activation_sparsity_pattern", sparsity)):
        if not isinstance(values, list) or len(values) != layers:
            raise ArchitectureError(
                f"config.json: `{key}` is {values!r:.60}; one for each of {layers} layers is needed"
            )
    return [
        replace(
            mlp,
            intermediate_size=ConfigReader({"intermediate_size": size}).integer("intermediate_size"),
            sparsity=max(
                ConfigReader({"activation_sparsity_pattern": share}).number("activation_sparsity_pattern", 0), 0.0
            ),
        )
        for size, share in zip(sizes, sparsity, strict=True)
    ]


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gemma3n_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 160,
        "max_position_embeddings": 256, "sliding_window": 12, "layer_types": [FULL, SLIDING, SLIDING],
        "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 150, "laurel_rank": 32,
        "num_kv_shared_layers": 1, "activation_sparsity_pattern": [0.9, 0.0, 0.5],
    }  # fmt: skip
    return [
        base,
        {
            **base, "num_hidden_layers": 2, "layer_types": [SLIDING, FULL], "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.0, 0.95], "intermediate_size": [96, 64], "altup_num_inputs": 3,
            "altup_active_idx": 1, "altup_correct_scale": False, "vocab_size_per_layer_input": 320,
            "final_logit_softcapping": 4.0, "rope_theta": 5e4, "rope_local_base_freq": 2e4,
        },
    ]  # fmt: skip
