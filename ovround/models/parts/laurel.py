"""The learned augmented residual of Gemma 3n: a projection of few features beside attention."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.models.ops import Ops, T
from ovround.models.parts.norms import Norm
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State

_NORM = "post_laurel_norm"


@dataclass(frozen=True, slots=True)
class Laurel:
    """x + norm(linear_right(linear_left(x)))."""

    norm: Norm
    rank: int
    name: str = "laurel"

    def __post_init__(self) -> None:
        check_size("laurel_rank", self.rank)

    @property
    def inner_size(self) -> int:
        return self.rank

    def floats(self) -> dict[str, tuple[int, ...]]:
        return self.norm.tensors(_NORM)

    def linears(self) -> tuple[Linear, ...]:
        return (Linear("linear_left", self.rank, self.norm.size), Linear("linear_right", self.norm.size, self.rank))

    def states(self) -> tuple[State, ...]:
        return ()

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        low = ops.linear(ops.linear(x, f"{at}.linear_left"), f"{at}.linear_right")
        return ops.add(x, self.norm.forward(ops, low, f"{at}.{_NORM}"))
