"""The dense MLP, with a gate or without."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.errors import ArchitectureError
from ovround.models.ops import Activation, Ops, T
from ovround.models.parts.gaussian_top_k import GaussianTopK
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State


@dataclass(frozen=True, slots=True)
class DenseMlp:
    """down(activation(gate(x)) * up(x)), or without a gate down(activation(up(x))).

    Falcon-H1 multiplies what the gate gives and what the part gives, by `gate_scale` and `output_scale`. With `sparsity` only the
    largest features of the gate are kept, about 1 - `sparsity` of them (`GaussianTopK`).
    """

    hidden_size: int
    intermediate_size: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    gate_scale: float = 1.0
    output_scale: float = 1.0
    sparsity: float = 0.0
    name: str = "mlp"

    def __post_init__(self) -> None:
        check_size("intermediate_size", self.intermediate_size)
        if not 0 <= self.sparsity < 1:
            raise ArchitectureError(f"activation sparsity is {self.sparsity}; 0 to less than 1 is allowed")

    @property
    def inner_size(self) -> int:
        return self.intermediate_size

    def floats(self) -> dict[str, tuple[int, ...]]:
        return {}

    def linears(self) -> tuple[Linear, ...]:
        inner, hidden = self.intermediate_size, self.hidden_size
        names = ("gate_proj", "up_proj") if self.gated else ("up_proj",)
        into = (Linear(name, inner, hidden, self.bias, fused="gate_up_proj") for name in names)
        return (*into, Linear("down_proj", hidden, inner, self.bias))

    def states(self) -> tuple[State, ...]:
        return ()

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        if not self.gated:
            return ops.linear(ops.activation(ops.linear(x, f"{at}.up_proj"), self.activation), f"{at}.down_proj")
        gate = _scaled(ops, ops.linear(x, f"{at}.gate_proj"), self.gate_scale)
        if self.sparsity:
            gate = ops.call(GaussianTopK(self.sparsity), (gate,), layer)
        gate = ops.activation(gate, self.activation)
        out = ops.linear(ops.mul(gate, ops.linear(x, f"{at}.up_proj")), f"{at}.down_proj")
        return _scaled(ops, out, self.output_scale)


def _scaled(ops: Ops[T], x: T, factor: float) -> T:
    return x if factor == 1 else ops.scale(x, factor)
