"""What is refused before the long work: a family that llama.cpp does not have, and grids that no type holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovround.checkpoint.gguf.architectures import Architecture, architecture_for
from ovround.errors import MissingExtraError, UsageError
from ovround.exporters.gguf.affine import affine_kind
from ovround.exporters.gguf.blocks import unfit
from ovround.exporters.gguf.computation import COMPUTATIONS, HINT, check_computation
from ovround.exporters.gguf.metadata import decoder_metadata
from ovround.exporters.gguf.tensors import file_tensors
from ovround.models import family_of
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.tensors.scheme import AffineScheme, QuantScheme, WeightScheme

Plan = Mapping[str, WeightScheme | None]


def architecture_of(decoder: Decoder, config: Mapping[str, Any]) -> Architecture:
    """llama.cpp's architecture of a model; raises UsageError where it has none, or computes it otherwise."""
    family = family_of(config["model_type"]) or str(config["model_type"])
    architecture = architecture_for(family)
    if architecture is None or architecture.name not in COMPUTATIONS:
        raise UsageError(f"format gguf: llama.cpp's files of family `{family}` are not written", hint=HINT)
    check_computation(architecture.name, decoder)
    return architecture


def check_gguf(decoder: Decoder, source: Path, config: Mapping[str, Any], plan: Plan, *, kept: bool) -> None:
    """Raise UsageError for a model that a GGUF file cannot hold, MissingExtraError without the package that writes headers.

    `source` has the tokenizer. `kept`: the integers are those of the source.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "convert")
    from ovround.exporters.gguf.tokenizer import tokenizer_metadata  # transformers

    architecture = architecture_of(decoder, config)
    decoder_metadata(architecture.name, decoder)
    tokenizer_metadata(source, decoder.config.vocab_size, architecture.name)
    shapes = decoder.every_tensor()
    tensors, _ = file_tensors(architecture, shapes, config)
    for tensor in tensors.values():
        modules = [part.removesuffix(".weight") for part in tensor.parts if part.endswith(".weight")]
        schemes = [plan.get(module) for module in modules]
        for module, scheme in zip(modules, schemes, strict=True):
            if isinstance(scheme, AffineScheme) and affine_kind(scheme.spec) is None:
                raise UsageError(f"format gguf: no type of llama.cpp holds `{module}` ({scheme.spec})", hint=HINT)
            if isinstance(scheme, QuantScheme):
                _check_scheme(module, scheme, shapes[f"{module}.weight"][1], kept)
        if len({type(scheme) for scheme in schemes}) > 1:
            raise UsageError(
                f"format gguf: `{tensor.name}` holds {' and '.join(f'`{module}`' for module in modules[:3])}, of which "
                "some are quantised and some are not",
                hint="the same bits for all of them",
            )


def _check_scheme(module: str, scheme: QuantScheme, inputs: int, kept: bool) -> None:
    why = unfit(scheme.bits, scheme.group_size, scheme.symmetric, inputs)
    if not why:
        return
    floats = {EMBEDDING: "--embedding-bits 16", HEAD: "--lm-head-bits 16"}
    fallback = floats.get(module, f"--layer '{module.rpartition('.')[2]}=bits:16'") + " leaves it in float"
    hints = {"groups": "--group-size 32", "zero points": "leave out --asym"}
    hint = next((text for key, text in hints.items() if key in why), fallback)
    raise UsageError(
        f"format gguf: no type of llama.cpp holds `{module}`: {why}",
        hint="--recipe rtn rounds the numbers that it stands for anew, or --format openvino or onnx" if kept else hint,
    )
