"""Gemma 4, its text model: inputs by layer, caches that layers share, local and global heads of other sizes, and experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.block import Block
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.models.gemma import read_gemma
from ovround.models.gemma2 import read_softcap
from ovround.models.layout import Layout, Module, OfAllLayers
from ovround.models.ops import Experts
from ovround.models.parts.attention import SelfAttention
from ovround.models.parts.dense_beside_experts import DenseBesideExperts
from ovround.models.parts.experts import ExpertMlp
from ovround.models.parts.norms import SANDWICH, NormPlaces
from ovround.models.parts.part import Part
from ovround.models.parts.per_layer_input import PerLayerInput
from ovround.models.rope import Rope, rope_from_config
from ovround.models.standard import FULL, SLIDING, StandardParts

_ROPES: dict[str, dict[str, Any]] = {
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
_DEFAULTS = {"num_key_value_heads": 4, "sliding_window": 512, "max_position_embeddings": 131072}
_BY_LAYER = ("head_dim", "num_key_value_heads")  # what `per_layer_config` may change
_MIXED = {
    "mlp.gate": "router.proj", "mlp.experts": "experts", "mlp.dense_norm": "pre_feedforward_layernorm",
    "mlp.post_dense_norm": "post_feedforward_layernorm_1", "mlp.experts_norm": "pre_feedforward_layernorm_2",
    "mlp.post_experts_norm": "post_feedforward_layernorm_2",
}  # fmt: skip
_MIXED_TENSORS = {"mlp.gate.scale": "router.per_expert_scale", "mlp.router_scale": "router.scale"}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Gemma 4 text config.json describes; raises ArchitectureError for a variant that is not built."""
    return build(ConfigReader({**_DEFAULTS, "hidden_size_per_layer_input": 256, **config}))


def build(read: ConfigReader) -> Decoder:
    """The decoder; `read` has the defaults of its configuration class."""
    read.refuse("use_bidirectional_attention", "vision")  # which text alone does not see
    parts = read_gemma(ConfigReader({**read.config, "use_bidirectional_attention": None}))
    layers = parts.config.num_hidden_layers
    kinds = _kinds(read, layers)
    sources = cache_sources(kinds, read.integer("num_kv_shared_layers", 0))
    mixers = _mixers(read, parts, kinds, sources)
    mlps = [_mlp(read, parts, shared=source is not None) for source in sources]
    given: tuple[Part, ...] = ()
    size = read.integer("hidden_size_per_layer_input", 0)
    names = SANDWICH.names
    modules: dict[str, Module] = {}
    if size:
        given = (read_per_layer_input(read, parts, size),)
        names, modules = (*names, (None, "post_per_layer_input_norm")), per_layer_modules(layers)
    if isinstance(mlps[0], DenseBesideExperts):
        names, modules = (names[0], (None, names[1][1]), *names[2:]), modules | _MIXED
    layout = Layout(
        modules | _MIXED_TENSORS,
        ignored=unread(sources),
        experts_count=mlps[0].experts.spec.count if isinstance(mlps[0], DenseBesideExperts) else 0,
    )
    blocks = tuple(
        Block(parts.norm, (mixer, mlp, *given), NormPlaces(names), scalar=True)
        for mixer, mlp in zip(mixers, mlps, strict=True)
    )
    head = replace(parts.head, softcap=read_softcap(read, "final_logit_softcapping", None))
    embedding = replace(parts.embedding, shared=bool(size))
    return Decoder(parts.config, embedding, blocks, head, EMBEDDING if parts.tied else HEAD, layout)


def _kinds(read: ConfigReader, layers: int) -> tuple[str, ...]:
    """Each layer's attention; the last one is full, whatever `layer_types` says."""
    every_sixth = tuple(FULL if layer % 6 == 5 else SLIDING for layer in range(layers))
    kinds = read.words("layer_types", layers, (FULL, SLIDING)) or every_sixth
    return (*kinds[:-1], FULL)


def cache_sources(kinds: tuple[str, ...], shared: int) -> tuple[int | None, ...]:
    """For each layer the earlier one whose keys and values it reads: the last `shared` read those of the last one of their kind.

    Raises ArchitectureError where there is none.
    """
    first = len(kinds) - shared
    last = {kind: layer for layer, kind in enumerate(kinds[: max(first, 0)])}
    missing = next((kind for kind in kinds[max(first, 0) :] if kind not in last), None)
    if shared < 0 or missing is not None:
        raise ArchitectureError(
            f"config.json: `num_kv_shared_layers` is {shared} of {len(kinds)}; the layers before them need one of each kind of "
            "`layer_types`, whose keys and values are shared"
        )
    return tuple(None if layer < first else last[kind] for layer, kind in enumerate(kinds))


def unread(sources: tuple[int | None, ...]) -> tuple[str, ...]:
    """Endings of the names of projections that checkpoints have for layers that read another's cache."""
    return tuple(
        f".layers.{layer}.self_attn.{name}.{kind}"
        for layer, source in enumerate(sources)
        if source is not None
        for name in ("k_proj", "v_proj", "k_norm", "v_norm")
        for kind in ("weight", "bias")
    )


def _mixers(
    read: ConfigReader, parts: StandardParts, kinds: tuple[str, ...], sources: tuple[int | None, ...]
) -> list[SelfAttention]:
    ropes: dict[tuple[str, int], Rope] = {}
    window = read.integer("sliding_window")
    same = read.flag("attention_k_eq_v", default=False)
    mixers = []
    for layer, kind in enumerate(kinds):
        head_dim, kv_heads = _heads(read, parts, layer, kind, same=same)
        if (kind, head_dim) not in ropes:
            ropes[kind, head_dim] = _rope(read, head_dim, kind)
        spec = replace(
            parts.attention.spec,
            head_dim=head_dim,
            num_key_value_heads=kv_heads,
            scale=1.0,
            rope=ropes[kind, head_dim],
            sliding_window=window if kind == SLIDING else None,
            cache_of=sources[layer],
            shared=layer in sources,
        )
        key_is_value = same and kind == FULL
        mixers.append(
            replace(parts.attention, spec=spec, query_key_norm="head", value_norm=True, key_is_value=key_is_value)
        )
    return mixers


def _heads(read: ConfigReader, parts: StandardParts, layer: int, kind: str, *, same: bool) -> tuple[int, int]:
    """Size of a head, and number of key/value heads, of one layer."""
    by_layer = read.config.get("per_layer_config")
    spec = parts.attention.spec
    if by_layer is None:
        changed: dict[str, int] = {"head_dim": read.integer("global_head_dim", 512)} if kind == FULL else {}
        if kind == FULL and same:
            changed["num_key_value_heads"] = read.integer("num_global_key_value_heads", spec.num_key_value_heads)
    else:
        changed = _changes(by_layer, layer)
    return changed.get("head_dim", spec.head_dim), changed.get("num_key_value_heads", spec.num_key_value_heads)


def _changes(by_layer: Any, layer: int) -> dict[str, int]:
    """What `per_layer_config` changes in one layer; its keys are numbers, which transformers writes as `05`."""
    if not isinstance(by_layer, Mapping) or not all(str(key).isdecimal() for key in by_layer):
        raise ArchitectureError(f"config.json: `per_layer_config` is {by_layer!r:.60}; an object by layer is needed")
    changed: Any = next((changes for key, changes in by_layer.items() if int(key) == layer), {})
    if not isinstance(changed, Mapping) or any(key not in _BY_LAYER for key in changed):
        raise ArchitectureError(
            f"config.json: `per_layer_config` of layer {layer} is {changed!r:.60}; {' and '.join(_BY_LAYER)} may be changed"
        )
    return {key: ConfigReader(changed).integer(key) for key in changed}


def _rope(read: ConfigReader, head_dim: int, kind: str) -> Rope:
    ropes = read.config.get("rope_parameters")
    nested = (_ROPES if ropes is None else ropes).get(kind) if isinstance(ropes, Mapping | None) else None
    if not isinstance(nested, Mapping):
        raise ArchitectureError(f"config.json: `rope_parameters` is {ropes!r:.60}; an object with `{kind}` is needed")
    outer = {"max_position_embeddings": read.integer("max_position_embeddings")}
    return rope_from_config(outer, head_dim, parameters=nested)


def _mlp(read: ConfigReader, parts: StandardParts, *, shared: bool) -> Part:
    """The dense MLP, twice as wide in layers without a cache of their own where so stated, alone or beside experts."""
    wide = 2 if shared and read.flag("use_double_wide_mlp", default=False) else 1
    dense = replace(parts.mlp, intermediate_size=wide * parts.mlp.intermediate_size)
    if not read.flag("enable_moe_block", default=False):
        return dense
    spec = Experts(
        read.integer("num_experts"),
        read.integer("top_k_experts"),
        read.integer("moe_intermediate_size"),
        "share",
        dense.activation,
        scaled=True,
    )
    return DenseBesideExperts(dense, ExpertMlp(parts.config.hidden_size, spec), parts.norm)


def read_per_layer_input(read: ConfigReader, parts: StandardParts, size: int) -> PerLayerInput:
    """The part that gives each block an input of its own, `size` features a token."""
    vocab_size = read.integer("vocab_size_per_layer_input", 262_144)
    config = parts.config
    if vocab_size < config.vocab_size:  # transformers fails on a token beyond
        raise ArchitectureError(
            f"config.json: `vocab_size_per_layer_input` is {vocab_size}; at least the {config.vocab_size} of `vocab_size` are needed"
        )
    return PerLayerInput(config.hidden_size, size, vocab_size, parts.mlp.activation, parts.norm.eps)


def per_layer_modules(layers: int) -> dict[str, Module]:
    """Where a checkpoint keeps what `PerLayerInput` reads: some of it in tensors of all layers."""
    return {
        "per_layer_input.embed_tokens": OfAllLayers("model.embed_tokens_per_layer", layers, 1),
        "per_layer_input.model_projection": OfAllLayers("model.per_layer_model_projection", layers, 0),
        "per_layer_input.projection_norm": OfAllLayers("model.per_layer_projection_norm", layers, None),
        "per_layer_input.gate": "per_layer_input_gate",
        "per_layer_input.projection": "per_layer_projection",
    }


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gemma4_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "vocab_size": 160,
        "max_position_embeddings": 256, "sliding_window": 12, "layer_types": [SLIDING, FULL, FULL],
        "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 320,
    }  # fmt: skip
    return [
        {**base, "num_kv_shared_layers": 1, "use_double_wide_mlp": True, "final_logit_softcapping": 3.0},
        {
            **base, "num_hidden_layers": 2, "layer_types": [SLIDING, FULL], "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True, "num_global_key_value_heads": 1, "attention_bias": True, "enable_moe_block": True,
            "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32,
            "rope_parameters": {
                SLIDING: {"rope_type": "linear", "factor": 2.0, "rope_theta": 2e4},
                FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 5e4, "factor": 2.0},
            },
        },
    ]  # fmt: skip
