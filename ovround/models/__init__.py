"""One architecture a file, named by Hugging Face's model_type; the file names are the registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.decoder import Decoder

_SHARED = {
    "block", "calls", "config_reader", "decoder", "layout", "ops", "parts", "rope", "standard", "state", "torch_functions",
    "torch_ops", "verbs",
}  # fmt: skip


def families() -> list[str]:
    """The model types that can be read, sorted."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name not in _SHARED)


def smallest_configs(family: str) -> list[dict[str, Any]]:
    """The family's smallest config.json files, one a variant: what the tests run on random weights."""
    configs: list[dict[str, Any]] = importlib.import_module(f"{__name__}.{family}").smallest_configs()
    return configs


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder for a config.json; raises ArchitectureError listing the known families for any other model_type."""
    family = config.get("model_type")
    if family not in families():
        raise ArchitectureError(
            f"model_type `{family}` is not a family that ovround knows",
            hint=f"known families: {', '.join(families())}; any other: optimum-cli export openvino --weight-format fp16 "
            "--model MODEL FOLDER, then ovround convert FOLDER OUT, which compresses it with NNCF",
        )
    decoder: Decoder = importlib.import_module(f"{__name__}.{family}").from_config(config)
    return decoder
