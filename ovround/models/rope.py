"""Rotary position embedding: the inverse frequencies of each variant, as numpy float32.

Dimension j of a head turns with dimension j + D/2 ("half-rotated", the layout of Hugging Face checkpoints) by the angle
`position * inverse_frequencies[j]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader

VARIANTS = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotation of the `dim` features of a head; `variant` names how frequencies are stretched beyond the trained length."""

    dim: int
    theta: float
    variant: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ArchitectureError(
                f"rope type `{self.variant}` is not supported", hint=f"supported rope types: {', '.join(VARIANTS)}"
            )
        if self.dim <= 0 or self.dim % 2:
            raise ArchitectureError(f"rope over {self.dim} features; an even number above 0 is needed")
        if not self.theta > 0 or not self.factor > 0:
            raise ArchitectureError(f"rope_theta {self.theta} and factor {self.factor} must be above 0")
        if self.variant == "llama3" and not self.high_freq_factor > self.low_freq_factor:
            raise ArchitectureError(
                f"rope high_freq_factor {self.high_freq_factor} must be above low_freq_factor {self.low_freq_factor}"
            )

    def inverse_frequencies(self) -> NDArray[np.float32]:
        """Radians a position, float32 `[dim / 2]` (llama3: the smooth interpolation of Meta's Llama 3.1 release)."""
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        plain: NDArray[np.float32] = np.float32(1.0) / np.power(np.float32(self.theta), exponents, dtype=np.float32)
        if self.variant == "linear":
            plain /= np.float32(self.factor)
        if self.variant == "llama3":
            wavelength = 2 * math.pi / plain
            turns = self.original_max_position_embeddings / wavelength
            smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
            smooth = np.clip(smooth, 0.0, 1.0)
            plain = ((1 - smooth) * plain / self.factor + smooth * plain).astype(np.float32)
        return plain

    def tables(self, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin, float32 `[positions, dim / 2]`, of the angles computed in float32 as every engine does."""
        angles = np.outer(np.arange(positions, dtype=np.float32), self.inverse_frequencies())
        return np.cos(angles), np.sin(angles)


def rope_from_config(config: Mapping[str, Any], dim: int) -> Rope:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4) of a config.json."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise ArchitectureError(f"rope_parameters is {scaling!r}; an object is needed")
    outer, read = ConfigReader(config), ConfigReader(scaling)
    theta = read.number("rope_theta", outer.number("rope_theta", 10000.0))
    if read.number("partial_rotary_factor", outer.number("partial_rotary_factor", 1.0)) != 1.0:
        raise ArchitectureError("partial_rotary_factor other than 1 is not supported for this family")
    known: dict[str, Any] = {
        key: read.number(key, 0.0)
        for key in ("factor", "low_freq_factor", "high_freq_factor")
        if scaling.get(key) is not None
    }
    if scaling.get("original_max_position_embeddings") is not None:
        known["original_max_position_embeddings"] = read.integer("original_max_position_embeddings")
    return Rope(dim, theta, str(scaling.get("rope_type", scaling.get("type", "default"))), **known)
