"""The rotation that a GGUF file states, as config.json spells it.

Llama 3's interpolation is no metadata: llama.cpp stores the factor of each frequency (`rope_freqs.weight`). Where the formula
with the parameters of published models gives these factors, it is stated by its parameters; any others are LongRoPE's, the
same for short and long texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.gguf.architectures import Architecture
from ovround.checkpoint.gguf.header import Metadata
from ovround.errors import CheckpointError

FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
FACTORS = (FREQUENCIES, LONG, SHORT)
_PARTIAL = {"gpt_neox": "rotary_pct", "phi": "partial_rotary_factor", "stablelm": "partial_rotary_factor",
            "phi3": "partial_rotary_factor"}  # fmt: skip
_YARN = {
    "attention_factor": "rope.scaling.yarn_attn_factor", "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}  # fmt: skip
_CLOSE = 2e-6  # of float32 factors that the formula gave
_WITHOUT = ("gpt2", "bloom")
_LLAMA3_ORIGINAL = (8192, 4096, 2048, 16384, 32768)

Number = Callable[[str], float | None]


def rope_of(
    architecture: Architecture,
    number: Number,
    metadata: Metadata,
    config: Mapping[str, Any],
    floats: Mapping[str, list[float]],
) -> dict[str, Any]:
    """The keys of config.json that state the rotation, besides its base; raises CheckpointError for one that is not known."""
    if architecture.model_type in _WITHOUT:
        return {}
    found = _partial(architecture, number, config)
    scaling = _scaling(architecture, number, metadata, config, floats)
    if scaling.get("rope_type") == "longrope":
        found["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    if architecture.model_type == "gemma3_text":
        full = {"rope_theta": config["rope_theta"], **(scaling or {"rope_type": "default"})}
        local = {"rope_theta": config["rope_local_base_freq"], "rope_type": "default"}
        return {"rope_parameters": {"full_attention": full, "sliding_attention": local}}
    if architecture.model_type == "gpt_oss":
        found["rope_scaling"] = scaling or {"rope_type": "default"}
    elif scaling:
        found["rope_scaling"] = scaling
    return found


def _partial(architecture: Architecture, number: Number, config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotated part of a head; raises CheckpointError for one in a family that rotates whole heads."""
    rotated = number("rope.dimension_count")
    hidden, heads = (config.get(key) for key in ("hidden_size", "num_attention_heads"))
    size = config.get("head_dim") or (
        hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else 0
    )
    key = _PARTIAL.get(architecture.model_type)
    if rotated is None or not size:
        return {key: 1.0} if key else {}
    if key is None:
        if rotated != size:
            raise CheckpointError(
                f"the file's `{architecture.name}.rope.dimension_count` is {rotated:g}; heads of {size} are rotated whole"
            )
        return {}
    if not 0 < rotated <= size:
        raise CheckpointError(
            f"the file's `{architecture.name}.rope.dimension_count` is {rotated:g} of heads of {size}"
        )
    return {key: rotated / size}


def _scaling(
    architecture: Architecture,
    number: Number,
    metadata: Metadata,
    config: Mapping[str, Any],
    floats: Mapping[str, list[float]],
) -> dict[str, Any]:
    kind = metadata.get(f"{architecture.name}.rope.scaling.type", "linear")
    factor = number("rope.scaling.factor") or number("rope.scale_linear") or 0.0
    longest = config.get("max_position_embeddings")
    original = int(number("rope.scaling.original_context_length") or longest or 0)
    if LONG in floats and SHORT in floats:
        return _longrope(number, floats[SHORT], floats[LONG], original, longest)
    if FREQUENCIES in floats:
        return _interpolation(floats[FREQUENCIES], config, original)
    if kind == "yarn" and factor not in (0, 1):
        stated = {key: number(name) for key, name in _YARN.items()}
        found: dict[str, Any] = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        found |= {key: value for key, value in stated.items() if value}
        return found | ({"truncate": False} if architecture.model_type == "gpt_oss" else {})
    if kind == "linear" and factor not in (0, 1):
        return {"rope_type": "linear", "factor": factor}
    if kind not in ("linear", "yarn", "none", "longrope"):
        raise CheckpointError(
            f"the file's `{architecture.name}.rope.scaling.type` is {kind!r:.40}; none, linear, yarn and longrope are known"
        )
    return {}


def _longrope(number: Number, short: list[float], long: list[float], original: int, longest: Any) -> dict[str, Any]:
    """Factors of texts up to `original` tokens, and beyond; without an attention factor where the formula gives it."""
    found: dict[str, Any] = {
        "rope_type": "longrope", "short_factor": short, "long_factor": long,
        "original_max_position_embeddings": original,
    }  # fmt: skip
    stated = number("rope.scaling.attn_factor")
    stretch = longest / original if isinstance(longest, int) and original > 0 else 1.0
    formula = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 and original > 1 else 1.0
    if stated is not None and abs(stated - formula) > 1e-6 * formula:
        found["attention_factor"] = stated
    return found


def _interpolation(factors: list[float], config: Mapping[str, Any], original: int) -> dict[str, Any]:
    """Llama 3's parameters where its formula gives the factors, else LongRoPE with the same factors at any length."""
    stored = np.asarray(factors, np.float32)
    if not np.isfinite(stored).all() or (stored <= 0).any():
        raise CheckpointError(f"`{FREQUENCIES}` has factors that are no numbers above 0", hint="get the file again")
    if (stored == 1).all():
        return {}
    theta, factor = float(config.get("rope_theta") or 1e4), float(stored.max())
    for length in dict.fromkeys((*_LLAMA3_ORIGINAL, original)):
        if length > 0 and np.allclose(llama3_factors(len(stored), theta, factor, length), stored, rtol=_CLOSE, atol=0):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": length,
            }  # fmt: skip
    same = [float(value) for value in stored]
    length = max(original, 1)
    return {
        "rope_type": "longrope", "short_factor": same, "long_factor": same, "attention_factor": 1.0,
        "original_max_position_embeddings": length,
    }  # fmt: skip


def llama3_factors(count: int, theta: float, factor: float, original: int) -> NDArray[np.float32]:
    """What each of `count` frequencies is divided by, as llama.cpp's converter computes it, with low 1 and high 4."""
    exponents = np.arange(0, 2 * count, 2, dtype=np.float32) / np.float32(2 * count)
    wavelength = 2 * np.pi * np.power(np.float32(theta), exponents).astype(np.float64)
    smooth = (original / wavelength - 1.0) / (4.0 - 1.0)
    between = 1 / ((1 - smooth) / factor + smooth)
    found = np.where(wavelength < original / 4.0, 1.0, np.where(wavelength > original, factor, between))
    return found.astype(np.float32)
