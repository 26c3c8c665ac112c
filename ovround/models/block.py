"""A transformer block: parts between norms, each of which adds to the residual stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ovround.models.ops import Ops, T
from ovround.models.parts.norms import PRE, Norm, NormPlaces
from ovround.models.parts.part import Linear, Part
from ovround.models.parts.scale_by import ScaleBy
from ovround.models.state import State

_SCALAR = "layer_scalar"


@dataclass(frozen=True, slots=True)
class Block:
    """Usually a mixer and an MLP. `norm` is what all norms of the block compute, `places` where they are.

    What a part gives is multiplied by `residual_scale` before it is added. With `scalar` the block's output is multiplied by
    its tensor `layer_scalar` `[1]`. With `after` that is what norms behind a part compute; it has the same tensors.
    """

    norm: Norm
    parts: tuple[Part, ...]
    places: NormPlaces = PRE
    residual_scale: float = 1.0
    scalar: bool = False
    after: Norm | None = None

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.places.names):
            raise ValueError(f"{len(self.parts)} parts with norms for {len(self.places.names)}")
        for names in ([part.name for part in self.parts], [state.name for state in self.states()]):
            if len(set(names)) < len(names):
                raise ValueError(f"parts or states of one block have the same name: {', '.join(names)}")

    def tensors(self, at: str) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor of the block `at`: norms, the parts' other floats, linear layers."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in (name for pair in self.places.names for name in pair if name is not None):
            shapes |= self.norm.tensors(f"{at}.{name}")
        for part in self.parts:
            shapes |= {f"{at}.{part.name}.{name}": shape for name, shape in part.floats().items()}
        for module, linear in self.linears(at):
            shapes[f"{module}.weight"] = (linear.outputs, linear.inputs)
            if linear.bias:
                shapes[f"{module}.bias"] = (linear.outputs,)
        return shapes | ({f"{at}.{_SCALAR}": (1,)} if self.scalar else {})

    def linears(self, at: str) -> Iterator[tuple[str, Linear]]:
        """The linear layers by module, in the order in which they are computed."""
        return ((f"{at}.{part.name}.{linear.name}", linear) for part in self.parts for linear in part.linears())

    def fused(self, at: str) -> dict[str, list[tuple[str, Linear]]]:
        """The linear layers by the module that those of one multiplication are joined to, or by their own."""
        groups: dict[str, list[tuple[str, Linear]]] = {}
        for part in self.parts:
            for linear in part.linears():
                group = groups.setdefault(f"{at}.{part.name}.{linear.fused or linear.name}", [])
                group.append((f"{at}.{part.name}.{linear.name}", linear))
        return groups

    def states(self) -> tuple[State, ...]:
        """What the block's parts keep between steps."""
        return tuple(state for part in self.parts for state in part.states())

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        """`[B, T, hidden_size]` -> the same."""
        if self.places.parallel:
            return self._parallel(ops, x, at, layer)
        for part, (before, after) in zip(self.parts, self.places.names, strict=True):
            given = self._norm(ops, x, at, before)
            x = self._sum(ops, x, self._normed(ops, part.forward(ops, given, f"{at}.{part.name}", layer), at, after))
        return ops.call(ScaleBy(f"{at}.{_SCALAR}"), (x,), layer) if self.scalar else x

    def _parallel(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        total = given = x
        changes: list[T] = []
        for part, (before, after) in zip(self.parts, self.places.names, strict=True):
            given = given if before is None else self._norm(ops, x, at, before)
            if changes:
                total = self._sum(ops, total, changes.pop())
            changes.append(self._normed(ops, part.forward(ops, given, f"{at}.{part.name}", layer), at, after))
        return self._sum(ops, total, changes.pop())

    def _norm(self, ops: Ops[T], x: T, at: str, name: str | None) -> T:
        return x if name is None else self.norm.forward(ops, x, f"{at}.{name}")

    def _normed(self, ops: Ops[T], x: T, at: str, name: str | None) -> T:
        """What a part gives, through the norm behind it."""
        return x if name is None else (self.after or self.norm).forward(ops, x, f"{at}.{name}")

    def _sum(self, ops: Ops[T], x: T, change: T) -> T:
        return ops.add(x, change if self.residual_scale == 1 else ops.scale(change, self.residual_scale))
