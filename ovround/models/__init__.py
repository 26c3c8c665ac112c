"""One architecture a file, named by Hugging Face's model_type; the file names are the registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.decoder import Decoder

_SHARED = {
    "altup_block", "block", "calls", "config_reader", "decoder", "layer_ropes", "layout", "mamba2_config", "ops", "parts", "rope",
    "standard", "state", "tied_head",
    "torch_functions", "torch_ops", "verbs",
}  # fmt: skip

_ALIASES = {"kimi_k2": "deepseek_v3"}  # a model_type whose configuration and code are another's

registered: dict[str, Callable[[Mapping[str, Any]], Decoder]] = {}
"""Families from outside of ovround: model_type -> `from_config`. They come before the files."""


def families() -> list[str]:
    """The model types that ovround ships, sorted."""
    return sorted(
        info.name
        for info in pkgutil.iter_modules(__path__)
        if info.name not in _SHARED and not info.name.startswith("verb_")
    )


def known_types() -> list[str]:
    """Every model_type that has a family, sorted."""
    return sorted({*families(), *registered, *_ALIASES})


def family_of(model_type: object) -> str | None:
    """The family that computes a model_type: a file of ovround's, or one that is registered; None where there is none."""
    if not isinstance(model_type, str):
        return None
    family = _ALIASES.get(model_type, model_type)
    return family if family in registered or family in families() else None


def smallest_configs(family: str) -> list[dict[str, Any]]:
    """The family's smallest config.json files, one a variant: what the tests run on random weights."""
    configs: list[dict[str, Any]] = importlib.import_module(f"{__name__}.{family}").smallest_configs()
    return configs


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder for a config.json; raises ArchitectureError listing the known families for any other model_type."""
    stated = config.get("model_type")
    if stated is None:
        names = config.get("architectures")
        hint = f"add it: architectures is {names}" if names else "add it: the family's name, such as llama"
        raise ArchitectureError("config.json states no model_type", hint=hint)
    family = family_of(stated)
    if family is None:
        known = known_types()
        near = get_close_matches(str(stated), known, n=3, cutoff=0.7)
        similar = f"; its name is near {', '.join(f'`{name}`' for name in near)}" if near else ""
        raise ArchitectureError(
            f"model_type `{stated!s:.40}` is not a family that ovround knows{similar}",
            hint=f"known families: {', '.join(known)}; any other: optimum-cli export openvino --weight-format fp16 "
            "--model MODEL FOLDER, then ovround convert FOLDER OUT, which compresses it with NNCF",
        )
    if family in registered:
        return registered[family](config)
    decoder: Decoder = importlib.import_module(f"{__name__}.{family}").from_config(config)
    return decoder
