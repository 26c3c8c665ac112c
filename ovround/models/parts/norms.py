"""Norms, and where a block has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ovround.models.ops import Ops, T


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm or layer norm over `size` features, with or without a bias."""

    kind: Literal["rms", "layer"]
    size: int
    eps: float
    bias: bool = False

    def tensors(self, at: str) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor of the norm at `at`."""
        return {f"{at}.{kind}": (self.size,) for kind in (("weight", "bias") if self.bias else ("weight",))}

    def forward(self, ops: Ops[T], x: T, at: str) -> T:
        """`[B, T, size]` -> the same."""
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
