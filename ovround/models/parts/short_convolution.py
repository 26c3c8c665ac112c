"""The mixer of LFM2: a short causal convolution between two gates, all three projections of one input."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ovround.models.ops import Ops, T
from ovround.models.parts.causal_convolution import CausalConvolution
from ovround.models.parts.part import Linear
from ovround.models.state import State


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """out(c(x) * conv(b(x) * h(x))); `convolution` names its module within the part. `bias` is that of the projections."""

    hidden_size: int
    convolution: CausalConvolution
    bias: bool = False
    name: str = "conv"

    @property
    def inner_size(self) -> int:
        return 3 * self.hidden_size

    def floats(self) -> dict[str, tuple[int, ...]]:
        return self.convolution.floats()

    def linears(self) -> tuple[Linear, ...]:
        size = self.hidden_size
        into = (Linear(f"{name}_proj", size, size, self.bias, fused="in_proj") for name in "bch")
        return (*into, Linear("out_proj", size, size, self.bias))

    def states(self) -> tuple[State, ...]:
        return self.convolution.states()

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        before, after, hidden = (ops.linear(x, f"{at}.{name}_proj") for name in "bch")
        convolution = replace(self.convolution, at=f"{at}.{self.convolution.at}")
        convolved = convolution.forward(ops, ops.mul(before, hidden), layer)
        return ops.linear(ops.mul(after, convolved), f"{at}.out_proj")
