"""Mixers that read the same input side by side, and whose outputs are added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ovround.models.ops import Ops, T
from ovround.models.parts.part import Linear, Part
from ovround.models.state import State


@dataclass(frozen=True, slots=True)
class Branch:
    """output_scale * part(input_scale * x)."""

    part: Part
    input_scale: float = 1.0
    output_scale: float = 1.0

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        """`[B, T, hidden_size]` -> the same; `at` is the module that holds the part's."""
        given = x if self.input_scale == 1 else ops.scale(x, self.input_scale)
        out = self.part.forward(ops, given, f"{at}.{self.part.name}", layer)
        return out if self.output_scale == 1 else ops.scale(out, self.output_scale)


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The sum of the branches. A branch's modules keep their part's name, within that of this part."""

    branches: tuple[Branch, ...]
    name: str = "mixer"

    @property
    def inner_size(self) -> int:
        return sum(branch.part.inner_size for branch in self.branches)

    def floats(self) -> dict[str, tuple[int, ...]]:
        return {f"{part.name}.{name}": shape for part in self._parts() for name, shape in part.floats().items()}

    def linears(self) -> tuple[Linear, ...]:
        return tuple(
            replace(
                linear,
                name=f"{part.name}.{linear.name}",
                fused=linear.fused and f"{part.name}.{linear.fused}",
                stack=linear.stack and f"{part.name}.{linear.stack}",
            )
            for part in self._parts()
            for linear in part.linears()
        )

    def states(self) -> tuple[State, ...]:
        return tuple(state for part in self._parts() for state in part.states())

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        first, *others = self.branches
        total = first.forward(ops, x, at, layer)
        for branch in others:
            total = ops.add(total, branch.forward(ops, x, at, layer))
        return total

    def _parts(self) -> Iterator[Part]:
        return (branch.part for branch in self.branches)
