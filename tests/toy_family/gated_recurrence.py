"""A gated recurrence: h_t = s_t * h_(t-1) + (1 - s_t) * v_t with s_t = sigmoid(gate_t), feature by feature."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.models.ops import Ops, T
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State


@dataclass(frozen=True, slots=True)
class GatedRecurrence:
    """The verb: gate and value `[B, T, size]` -> every h_t, `[B, T, size]`; the last one stays as the state `hidden`."""

    size: int
    name: str = "gated_recurrence"


@dataclass(frozen=True, slots=True)
class RecurrentMixer:
    """The mixer: gate and value projections of one input, the recurrence, and an output projection."""

    hidden_size: int
    size: int
    name: str = "recurrence"

    def __post_init__(self) -> None:
        check_size("recurrent_size", self.size)

    @property
    def inner_size(self) -> int:
        return 2 * self.size

    def floats(self) -> dict[str, tuple[int, ...]]:
        return {}

    def linears(self) -> tuple[Linear, ...]:
        projections = (
            Linear(f"{kind}_proj", self.size, self.hidden_size, fused="gate_value_proj") for kind in ("gate", "value")
        )
        return (*projections, Linear("out_proj", self.hidden_size, self.size))

    def states(self) -> tuple[State, ...]:
        return (State("hidden", (self.size,), dtype="float32"),)

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        gate, value = ops.linear(x, f"{at}.gate_proj"), ops.linear(x, f"{at}.value_proj")
        return ops.linear(ops.call(GatedRecurrence(self.size), (gate, value), layer), f"{at}.out_proj")
