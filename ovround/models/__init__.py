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

_WRITES_TEXT = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_KINDS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForPreTraining",
)

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
        _refuse_what_writes_no_text(stated, config.get("architectures"))
        known = known_types()
        near = get_close_matches(str(stated), known, n=3, cutoff=0.7)
        similar = f"; its name is near {', '.join(f'`{name}`' for name in near)}" if near else ""
        raise ArchitectureError(
            f"model_type `{stated!s:.40}` is not a family that ovround knows{similar}",
            hint=f"docs/reference/families.md lists the {len(known)} that it knows; any other: optimum-cli export openvino "
            "--weight-format fp16 --model MODEL FOLDER, then ovround convert FOLDER OUT, which compresses it with NNCF",
        )
    if family in registered:
        return registered[family](config)
    decoder: Decoder = importlib.import_module(f"{__name__}.{family}").from_config(config)
    return decoder


def _refuse_what_writes_no_text(model_type: object, architectures: object) -> None:
    """Raise ArchitectureError for a model of an unknown family that computes embeddings or classes, by its `architectures`."""
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if name.endswith(_KINDS) and not name.endswith(_WRITES_TEXT):
        raise ArchitectureError(
            f"model_type `{model_type!s:.40}` with architectures `{name:.60}` writes no text: it computes embeddings or classes",
            hint="the architectures of one that writes text end in ForCausalLM, as those of HuggingFaceTB/SmolLM2-135M-Instruct",
        )
