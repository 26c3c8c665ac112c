"""ovround: SignRound quantisation to OpenVINO and ONNX Runtime, with the runtime that runs the result.

    from ovround import LLM, ConvertOptions, convert

    convert("org/model", "out", ConvertOptions(bits=4, group_size=64))
    print(LLM("out").generate("Once upon a time", max_new_tokens=32).text)

Names are loaded when they are first used, so that `import ovround` costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path as _Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovround.conversion.cache import cached_model
    from ovround.conversion.convert import Conversion, convert
    from ovround.errors import OvroundError
    from ovround.measure.bench_options import BenchOptions
    from ovround.measure.benchmark import bench
    from ovround.measure.evaluation import evaluate_model
    from ovround.options.budget import Budget
    from ovround.options.convert_options import ConvertOptions
    from ovround.options.layer_rule import LayerRule
    from ovround.options.tuning_options import TuningOptions
    from ovround.runtime import LLM, SamplingOptions
    from ovround.tensors.scheme import Codebooks

__version__ = "0.1.0"

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and str(_root) not in __path__:
    __path__.append(str(_root))  # a checkout keeps exporters/ and runtime/ beside this package; a wheel has them inside

_HOMES = {
    "Budget": "ovround.options.budget",
    "Codebooks": "ovround.tensors.scheme",
    "TuningOptions": "ovround.options.tuning_options",
    "ConvertOptions": "ovround.options.convert_options",
    "LayerRule": "ovround.options.layer_rule",
    "cached_model": "ovround.conversion.cache",
    "Conversion": "ovround.conversion.convert",
    "convert": "ovround.conversion.convert",
    "OvroundError": "ovround.errors",
    "evaluate_model": "ovround.measure.evaluation",
    "LLM": "ovround.runtime",
    "SamplingOptions": "ovround.runtime",
    "BenchOptions": "ovround.measure.bench_options",
    "bench": "ovround.measure.benchmark",
}
__all__ = [
    "LLM", "BenchOptions", "Budget", "Codebooks", "Conversion", "ConvertOptions", "LayerRule", "OvroundError",
    "SamplingOptions", "TuningOptions", "bench", "cached_model", "convert", "evaluate_model",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
