"""A mixture of experts beside one expert that every token takes, which may be weighed by a gate of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ovround.models.ops import Ops, T
from ovround.models.parts.dense import DenseMlp
from ovround.models.parts.experts import ExpertMlp
from ovround.models.parts.part import Linear
from ovround.models.state import State

_SHARED, _GATE = "shared_expert", "shared_expert_gate"


@dataclass(frozen=True, slots=True)
class SharedExpertMlp:
    """experts(x) + sigmoid(gate(x)) * shared(x), or without a gate experts(x) + shared(x).

    The gate stays in float, as the router does.
    """

    experts: ExpertMlp
    shared: DenseMlp
    gated: bool = True
    name: str = "mlp"

    @property
    def inner_size(self) -> int:
        return self.experts.inner_size + self.shared.inner_size

    def floats(self) -> dict[str, tuple[int, ...]]:
        gate = {f"{_GATE}.weight": (1, self.experts.hidden_size)} if self.gated else {}
        return self.experts.floats() | gate

    def linears(self) -> tuple[Linear, ...]:
        shared = (
            replace(linear, name=f"{_SHARED}.{linear.name}", fused=linear.fused and f"{_SHARED}.{linear.fused}")
            for linear in self.shared.linears()
        )
        return (*shared, *self.experts.linears())

    def states(self) -> tuple[State, ...]:
        return ()

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        mixed = self.experts.forward(ops, x, at, layer)
        shared = self.shared.forward(ops, x, f"{at}.{_SHARED}", layer)
        if self.gated:
            shared = ops.mul(ops.activation(ops.linear(x, f"{at}.{_GATE}"), "sigmoid"), shared)
        return ops.add(mixed, shared)
