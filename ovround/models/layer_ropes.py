"""Rotations that differ between full and sliding layers, as Gemma 3 and OLMo 3 state them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.rope import Rope, rope_from_config
from ovround.models.standard import FULL

_OUTER = ("rope_theta", "original_max_position_embeddings")  # not read beside parameters by layer type


def layer_ropes(config: Mapping[str, Any], head_dim: int, thetas: Mapping[str, float]) -> dict[str, Rope]:
    """The rotation of each kind of layer in `thetas`, which gives the theta of one that states none.

    transformers 5 keeps parameters by layer type; 4 had a scaling that is the full layers' alone. Where both are there, the
    scaling changes the full layers' parameters key by key, as in transformers. Raises ArchitectureError for no such rotation.
    """
    by_kind, scaling = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    for what in (by_kind, scaling):
        if not isinstance(what, Mapping):
            raise ArchitectureError(f"rope_parameters is {what!r:.60}; an object is needed")
    plain = {key: value for key, value in config.items() if key not in _OUTER}
    ropes = {}
    for kind, theta in thetas.items():
        nested = by_kind.get(kind)
        nested = {"rope_type": "default"} if nested is None else nested
        if kind == FULL and isinstance(nested, Mapping):
            nested = {**nested, **scaling}
        ropes[kind] = rope_from_config(plain, head_dim, theta=theta, parameters=nested)
    return ropes
