"""Whether a model can be converted, and what will run it, from its config.json alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ovround.checkpoint.quantised import quantisation_method
from ovround.checkpoint.text_part import is_multimodal, text_config
from ovround.conversion.fit.config import StatedConfig
from ovround.errors import ArchitectureError, OvroundError, UsageError
from ovround.exporters.gguf.suitability import architecture_of
from ovround.exporters.onnx.suitability import check_onnx_attention
from ovround.models import family_of, from_config
from ovround.models.calls import missing_verbs
from ovround.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class EngineSupport:
    """Whether an engine runs the model, or a format holds it; `why` not, empty where it does."""

    engine: str
    runs: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class ModelSupport:
    """A model by its config.json. `family` computes it, `quantised` says how its weights are stored, empty for floats.

    `parameters` counts the weights that a conversion reads: those of a multimodal model's text model.
    """

    model_type: str
    family: str
    layers: int
    parameters: int
    context_length: int
    quantised: str
    text_part: bool
    engines: tuple[EngineSupport, ...]


def model_support(stated: StatedConfig) -> ModelSupport:
    """What a model is, and its engines; imports neither torch nor transformers nor an engine.

    Raises ArchitectureError for a family that is not known, and for a variant, by its key; CheckpointError for a quantisation
    that cannot be read.
    """
    config = text_config(stated.config)
    decoder = from_config(config)
    settings = config.get("quantization_config") or config.get("quantization")
    method = quantisation_method("config.json", settings) if isinstance(settings, dict) and settings else stated.gguf
    shapes = decoder.every_tensor()
    engines = [
        _engine("OpenVINO, its C++ runtime, openvino_genai", _openvino, decoder),
        _engine("ONNX Runtime, its C++ runtime, onnxruntime-genai", _onnx, decoder),
        _engine("Gaudi (hpu)", _hpu, decoder),
        _engine("llama.cpp (--format gguf)", lambda one: architecture_of(one, config), decoder),
    ]
    return ModelSupport(
        model_type=str(stated.config.get("model_type")),
        family=str(family_of(config["model_type"])),
        layers=decoder.config.num_hidden_layers,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        context_length=decoder.config.max_position_embeddings,
        quantised=method,
        text_part=is_multimodal(stated.config),
        engines=tuple(engines),
    )


def _engine(name: str, check: Callable[[Decoder], object], decoder: Decoder) -> EngineSupport:
    try:
        check(decoder)
    except (ArchitectureError, UsageError) as error:
        return EngineSupport(name, False, _sentence(error))
    return EngineSupport(name, True)


def _sentence(error: OvroundError) -> str:
    return str(error).removeprefix("format gguf: ")


def _openvino(decoder: Decoder) -> None:
    _refuse_verbs(decoder, "openvino")


def _onnx(decoder: Decoder) -> None:
    _refuse_verbs(decoder, "onnx")
    check_onnx_attention(decoder)


def _hpu(decoder: Decoder) -> None:
    _refuse_verbs(decoder, "hpu")


def _refuse_verbs(decoder: Decoder, backend: str) -> None:
    missing = missing_verbs(decoder, backend)
    if missing:
        raise ArchitectureError(f"the model's `{missing[0]}` is not built for {backend}")
