"""What every mixer and MLP answers: `Part`, and the linear layers that it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ovround.errors import ArchitectureError
from ovround.models.ops import Ops, T
from ovround.models.state import State

LARGEST_SIZE = (
    1 << 31
) - 1  # beyond any model: a hostile config.json asks for no endless work before its tensors are read


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of a part, `{name}.weight` `[outputs, inputs]`, with or without a bias: what quantisation replaces.

    Layers with the same `fused` are computed in one multiplication and share their bits; the name is that of the joined
    module. Layers with the same `stack` differ only in the expert they belong to, and engines hold them in one tensor.
    `token_share` is the part of all tokens that the layer computes on. A `decoded` layer's numbers are what engines need, not its
    products: it is no layer of codebooks.
    """

    name: str
    outputs: int
    inputs: int
    bias: bool = False
    fused: str = ""
    stack: str = ""
    token_share: float = 1.0
    decoded: bool = False


class Part(Protocol):
    """A mixer or an MLP: a frozen dataclass, equal to those that compute the same. Names are relative to the part's own."""

    @property
    def name(self) -> str:
        """The part's module within its block: `self_attn`, `mlp`."""
        ...

    @property
    def inner_size(self) -> int:
        """Features that a token has inside the part, for estimates of memory."""
        ...

    def floats(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor that stays in float: norms, routers, scores."""
        ...

    def linears(self) -> tuple[Linear, ...]:
        """The linear layers, in the order in which they are computed."""
        ...

    def states(self) -> tuple[State, ...]:
        """What is kept between steps; an MLP keeps nothing."""
        ...

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        """`[B, T, hidden_size]` -> the same; `at` is the module's whole name, `model.layers.0.mlp`."""
        ...


def check_size(name: str, value: int, largest: int = LARGEST_SIZE) -> None:
    """Raise ArchitectureError unless `value` is 1 to `largest`."""
    if not 0 < value <= largest:
        raise ArchitectureError(f"{name} is {value!r:.40}; 1 to {largest} is allowed")
