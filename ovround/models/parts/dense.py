"""The dense MLP, with a gate or without."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.models.ops import Activation, Ops, T
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State

XIELU_BETA = 0.5  # transformers' class has no key for it


@dataclass(frozen=True, slots=True)
class Xielu:
    """The verb: xIELU (Huang and Schlag 2024) of any shape, with the learned values `{at}.alpha_p` and `{at}.alpha_n` `[1]`.

    p * max(x, 0)^2 + n * (e^min(x, 0) - 1 - min(x, 0)) + beta * x, where p = softplus(alpha_p), n = beta + softplus(alpha_n).
    """

    at: str
    beta: float = XIELU_BETA
    name: str = "xielu"


@dataclass(frozen=True, slots=True)
class DenseMlp:
    """down(activation(gate(x)) * up(x)), or without a gate down(activation(up(x))).

    With `xielu` that is the activation, learned, in place of `activation`.
    """

    hidden_size: int
    intermediate_size: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    xielu: bool = False
    name: str = "mlp"

    def __post_init__(self) -> None:
        check_size("intermediate_size", self.intermediate_size)

    @property
    def inner_size(self) -> int:
        return self.intermediate_size

    def floats(self) -> dict[str, tuple[int, ...]]:
        return {"act_fn.alpha_p": (1,), "act_fn.alpha_n": (1,)} if self.xielu else {}

    def linears(self) -> tuple[Linear, ...]:
        inner, hidden = self.intermediate_size, self.hidden_size
        names = ("gate_proj", "up_proj") if self.gated else ("up_proj",)
        into = (Linear(name, inner, hidden, self.bias, fused="gate_up_proj") for name in names)
        return (*into, Linear("down_proj", hidden, inner, self.bias))

    def states(self) -> tuple[State, ...]:
        return ()

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        if not self.gated:
            return ops.linear(self._activated(ops, ops.linear(x, f"{at}.up_proj"), at, layer), f"{at}.down_proj")
        gate = self._activated(ops, ops.linear(x, f"{at}.gate_proj"), at, layer)
        return ops.linear(ops.mul(gate, ops.linear(x, f"{at}.up_proj")), f"{at}.down_proj")

    def _activated(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        if self.xielu:
            return ops.call(Xielu(f"{at}.act_fn"), (x,), layer)
        return ops.activation(x, self.activation)
