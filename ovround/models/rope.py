"""Rotary position embedding: the inverse frequencies of each variant, as numpy float32.

Dimension j of a head turns with dimension j + dim/2 ("half-rotated", the layout of most Hugging Face checkpoints), or where
pairs are `interleaved` dimension 2j with 2j + 1, by the angle `position * inverse_frequencies[j]`; a head's features from
`dim` on are left as they are. Two variants look at how long the text is by now, the longest row of the batch: `dynamic`
stretches theta with it, `longrope` has factors for short and long.
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

VARIANTS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow")
_STATES_ORIGINAL = ("llama3", "yarn", "longrope")  # whose `original_max_position_embeddings` may stand outside


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotation of the first `dim` features of a head; `variant` names how frequencies are stretched beyond the trained length.

    cos and sin are multiplied by `attention_factor`.
    """

    dim: int
    theta: float
    variant: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ArchitectureError(
                f"rope type `{self.variant}` is not supported", hint=f"supported rope types: {', '.join(VARIANTS)}"
            )
        if self.dim <= 0 or self.dim % 2:
            raise ArchitectureError(
                f"rope over {self.dim} features (head_dim, partial_rotary_factor); an even number above 0 is needed"
            )
        if not self.theta > 0 or not self.factor > 0:
            raise ArchitectureError(f"rope_theta {self.theta} and factor {self.factor} must be above 0")
        if not self.original_max_position_embeddings > 1:
            raise ArchitectureError(
                f"rope original_max_position_embeddings is {self.original_max_position_embeddings}; 2 or more is needed"
            )
        if self.variant == "llama3" and not self.high_freq_factor > self.low_freq_factor:
            raise ArchitectureError(
                f"rope high_freq_factor {self.high_freq_factor} must be above low_freq_factor {self.low_freq_factor}"
            )
        if self.variant == "dynamic" and self.dim < 4:
            raise ArchitectureError(f"rope type `dynamic` over {self.dim} features; 4 or more are needed")
        if self.variant == "yarn" and (self.theta == 1 or min(self.beta_fast, self.beta_slow) <= 0):
            raise ArchitectureError(
                f"rope type `yarn` with rope_theta {self.theta}, beta_fast {self.beta_fast}, beta_slow {self.beta_slow}"
            )
        if self.variant == "longrope":
            for key in ("short_factor", "long_factor"):
                factors = getattr(self, key)
                if len(factors) != self.dim // 2 or min(factors) <= 0:
                    raise ArchitectureError(
                        f"rope {key} has {len(factors)} factors; {self.dim // 2} above 0 are needed"
                    )

    @property
    def follows_length(self) -> bool:
        """Whether the frequencies depend on how long the text is by now."""
        return self.variant in ("dynamic", "longrope")

    def inverse_frequencies(self, length: int = 0) -> NDArray[np.float32]:
        """Radians a position, float32 `[dim / 2]`, in a text of `length` tokens.

        llama3: the smooth interpolation of Meta's Llama 3.1 release; yarn: Peng et al. 2023, section 3.2.
        """
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        plain: NDArray[np.float32] = np.float32(1.0) / np.power(np.float32(self.theta), exponents, dtype=np.float32)
        if self.variant == "linear":
            plain /= np.float32(self.factor)
        elif self.variant == "dynamic":
            plain *= np.power(np.float32(self.stretch(length)), self.stretch_exponents())
        elif self.variant == "llama3":
            wavelength = 2 * math.pi / plain
            turns = self.original_max_position_embeddings / wavelength
            smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
            smooth = np.clip(smooth, 0.0, 1.0)
            plain = ((1 - smooth) * plain / self.factor + smooth * plain).astype(np.float32)
        elif self.variant == "yarn":
            kept = self._kept()
            plain = plain / np.float32(self.factor) * (1 - kept) + plain * kept
        elif self.variant == "longrope":
            long = length > self.original_max_position_embeddings
            plain /= np.asarray(self.long_factor if long else self.short_factor, np.float32)
        return plain

    def stretch(self, length: int) -> float:
        """dynamic: 1 up to the trained length, `factor` times the excess more beyond it."""
        excess = max(length / self.original_max_position_embeddings - 1, 0.0)
        return 1 + self.factor * excess

    def stretch_exponents(self) -> NDArray[np.float32]:
        """dynamic: the power of `stretch` that each frequency is multiplied by, float32 `[dim / 2]`."""
        return -np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim - 2)

    def cos_sin(self, positions: int, length: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin, float32 `[positions, dim / 2]`, of the angles computed in float32 as every engine does."""
        angles = np.outer(np.arange(positions, dtype=np.float32), self.inverse_frequencies(length))
        factor = np.float32(self.attention_factor)
        return np.cos(angles) * factor, np.sin(angles) * factor

    def _kept(self) -> NDArray[np.float32]:
        """yarn: the part of each frequency that is not interpolated, 1 for the fast ones, float32 `[dim / 2]`."""

        def dimension(turns: float) -> float:
            length = self.original_max_position_embeddings
            return self.dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        high += 0.001 if low == high else 0
        ramp = (np.arange(self.dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
        kept: NDArray[np.float32] = 1 - np.clip(ramp, 0, 1)
        return kept


def rope_from_config(
    config: Mapping[str, Any],
    head_dim: int,
    *,
    theta: float = 10000.0,
    partial: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    interleaved: bool = False,
) -> Rope:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4) of a config.json.

    A `rope_scaling` that says anything rules over all of `rope_parameters`, its theta too, as in transformers 5.24
    (`RotaryEmbeddingConfigMixin.convert_rope_params_to_dict`): model cards tell to add one by hand.
    `theta` and `partial`, the rotated part of a head, are the family's defaults, None for one that always rotates whole heads;
    `parameters` stand in for the config's own. `interleaved` says which features are pairs.
    Raises ArchitectureError for what is no such rotation.
    """
    scaling = (
        parameters if parameters is not None else config.get("rope_scaling") or config.get("rope_parameters") or {}
    )
    if not isinstance(scaling, Mapping):
        raise ArchitectureError(f"rope_parameters is {scaling!r}; an object is needed")
    outer, read = ConfigReader(config), ConfigReader(scaling)
    theta = read.number("rope_theta", outer.number("rope_theta", theta))
    rotated = read.number("partial_rotary_factor", outer.number("partial_rotary_factor", partial or 1.0))
    variant = str(scaling.get("rope_type", scaling.get("type", "default")))
    if partial is None and variant == "default":
        rotated = 1.0  # transformers does not read it there
    if partial is None and rotated != 1:
        raise ArchitectureError("partial_rotary_factor other than 1 is not supported for this family")
    if not 0 < rotated <= 1:
        raise ArchitectureError(f"partial_rotary_factor is {rotated}; above 0 and at most 1 is allowed")
    longest = outer.integer("max_position_embeddings", 2048)
    original = read.integer("original_max_position_embeddings", longest)
    if variant in _STATES_ORIGINAL:
        original = outer.integer("original_max_position_embeddings", original)
    known: dict[str, Any] = {key: read.number(key, 0.0) for key in _NUMBERS if scaling.get(key) is not None}
    if variant == "dynamic":
        original = longest
    elif variant in ("yarn", "longrope"):
        known.setdefault("factor", longest / max(original, 1))
        known.setdefault("attention_factor", _attention_factor(variant, known["factor"], original, read))
    if variant == "longrope":
        known |= {key: read.numbers(key) for key in ("short_factor", "long_factor")}
    truncate = read.flag("truncate", default=True)
    return Rope(
        int(head_dim * rotated), theta, variant, original_max_position_embeddings=original, truncate=truncate,
        interleaved=interleaved, **known,
    )  # fmt: skip


def _attention_factor(variant: str, factor: float, original: int, read: ConfigReader) -> float:
    """What cos and sin are multiplied by where the configuration does not say: the papers' formulas, as in transformers."""
    if factor <= 1:
        return 1.0
    if variant == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(max(original, 2)))
    scale, all_dimensions = read.number("mscale", 0.0), read.number("mscale_all_dim", 0.0)
    if scale and all_dimensions:
        return (0.1 * scale * math.log(factor) + 1) / (0.1 * all_dimensions * math.log(factor) + 1)
    return 0.1 * math.log(factor) + 1
