"""Norms, and where a block has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ovround.models.ops import Ops, T


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """The verb: each of `heads` equal parts of `[B, T, heads * size]` by itself through an RMS or layer norm.

    Then times `{at}.weight`, `heads * size` values of any shape; an empty `at` has no weight. There is no bias.
    """

    kind: Literal["rms", "layer"]
    heads: int
    size: int
    eps: float
    at: str = ""
    name: str = "head_norm"


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm or layer norm over `size` features, with or without a bias, or without a weight too."""

    kind: Literal["rms", "layer"]
    size: int
    eps: float
    bias: bool = False
    weight: bool = True

    def tensors(self, at: str) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor of the norm at `at`."""
        if not self.weight:
            return {}
        return {f"{at}.{kind}": (self.size,) for kind in (("weight", "bias") if self.bias else ("weight",))}

    def forward(self, ops: Ops[T], x: T, at: str) -> T:
        """`[B, T, size]` -> the same."""
        if not self.weight:
            return ops.call(HeadNorm(self.kind, 1, self.size, self.eps), (x,), 0)
        return ops.rms_norm(x, at, self.eps) if self.kind == "rms" else ops.layer_norm(x, at, self.eps)


@dataclass(frozen=True, slots=True)
class NormPlaces:
    """The names of the norms before and after each part of a block; None where there is none.

    In a `parallel` block all parts read the block's input and everything is added to that. A part without a norm of its own
    before it then reads what the part before it read.
    """

    names: tuple[tuple[str | None, str | None], ...]
    parallel: bool = False


PRE = NormPlaces((("input_layernorm", None), ("post_attention_layernorm", None)))
POST = NormPlaces(((None, "post_attention_layernorm"), (None, "post_feedforward_layernorm")))
SANDWICH = NormPlaces(
    (
        ("input_layernorm", "post_attention_layernorm"),
        ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    )
)
PARALLEL = NormPlaces(PRE.names, parallel=True)
PARALLEL_SHARED = NormPlaces((("input_layernorm", None), (None, None)), parallel=True)
