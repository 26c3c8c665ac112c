"""One architecture a file, named by Hugging Face's model_type; the file names are the registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.decoder import Decoder

_SHARED = {
    "block", "calls", "config_reader", "decoder", "layer_ropes", "layout", "ops", "parts", "rope", "standard", "state", "tied_head",
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


def smallest_configs(family: str) -> list[dict[str, Any]]:
    """The family's smallest config.json files, one a variant: what the tests run on random weights."""
    configs: list[dict[str, Any]] = importlib.import_module(f"{__name__}.{family}").smallest_configs()
    return configs


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder for a config.json; raises ArchitectureError listing the known families for any other model_type."""
    family = config.get("model_type")
    family = _ALIASES.get(family, family) if isinstance(family, str) else family
    if isinstance(family, str) and family in registered:
        return registered[family](config)
    if family not in families():
        known = sorted({*families(), *registered})
        raise ArchitectureError(
            f"model_type `{family}` is not a family that ovround knows",
            hint=f"known families: {', '.join(known)}; any other: optimum-cli export openvino --weight-format fp16 "
            "--model MODEL FOLDER, then ovround convert FOLDER OUT, which compresses it with NNCF",
        )
    decoder: Decoder = importlib.import_module(f"{__name__}.{family}").from_config(config)
    return decoder
