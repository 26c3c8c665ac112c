"""The mixer of Mamba 2: projections, a short causal convolution, the selective scan, and a norm gated by one projection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ovround.errors import ArchitectureError
from ovround.models.ops import Activation, Ops, T
from ovround.models.parts.causal_convolution import CausalConvolution
from ovround.models.parts.norms import HeadNorm
from ovround.models.parts.part import Linear
from ovround.models.parts.section_scale import SectionScale
from ovround.models.parts.selective_scan import SelectiveScan
from ovround.models.state import State

_NO_FACTORS = (1.0, 1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Mamba2:
    """out(norm(y) gated by silu(z)), y = scan(conv(x, B, C), d), of the projections z, x with B and C, and d.

    `convolution` and `scan` name their modules within the part; the convolution is followed by `activation`. `gate` says
    whether the gate comes before the norm, after it, or stands without one. `factors` multiply the projections z, x, B, C and
    d, `input_scale` what they read (Falcon-H1).
    """

    hidden_size: int
    scan: SelectiveScan
    convolution: CausalConvolution
    norm_eps: float
    gate: Literal["before_norm", "after_norm", "alone"] = "before_norm"
    bias: bool = False
    output_bias: bool = False
    input_scale: float = 1.0
    factors: tuple[float, float, float, float, float] = _NO_FACTORS
    activation: Activation = "silu"
    name: str = "mamba"

    def __post_init__(self) -> None:
        if self.scan.size % self.scan.groups:
            raise ArchitectureError(
                f"{self.scan.size} features of Mamba 2 are no multiple of {self.scan.groups} groups"
            )

    @property
    def inner_size(self) -> int:
        return self.scan.size + sum(self.scan.joined_sizes) + self.scan.heads

    def floats(self) -> dict[str, tuple[int, ...]]:
        heads = dict.fromkeys(("A_log", "dt_bias", "D"), (self.scan.heads,))
        norm = {} if self.gate == "alone" else {"norm.weight": (self.scan.size,)}
        return self.convolution.floats() | heads | norm

    def linears(self) -> tuple[Linear, ...]:
        sizes = {"z_proj": self.scan.size, "xbc_proj": sum(self.scan.joined_sizes), "dt_proj": self.scan.heads}
        into = (Linear(name, size, self.hidden_size, self.bias, fused="in_proj") for name, size in sizes.items())
        return (*into, Linear("out_proj", self.hidden_size, self.scan.size, self.output_bias))

    def states(self) -> tuple[State, ...]:
        return (*self.convolution.states(), *self.scan.states())

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        x = _scaled(ops, x, self.input_scale)
        z, joined, steps = (ops.linear(x, f"{at}.{name}_proj") for name in ("z", "xbc", "dt"))
        first, *middle, last = self.factors
        z, steps = _scaled(ops, z, first), _scaled(ops, steps, last)
        if middle != [1.0, 1.0, 1.0]:
            joined = ops.call(SectionScale(self.scan.joined_sizes, tuple(middle)), (joined,), layer)
        silu = self.activation == "silu"  # part of the verb, as engines fuse it
        convolution = replace(self.convolution, at=f"{at}.{self.convolution.at}", silu=silu)
        joined = convolution.forward(ops, joined, layer)
        joined = joined if silu else ops.activation(joined, self.activation)
        y = ops.call(replace(self.scan, at=at), (joined, steps), layer)
        return ops.linear(self._gated(ops, y, ops.activation(z, "silu"), at, layer), f"{at}.out_proj")

    def _gated(self, ops: Ops[T], y: T, gate: T, at: str, layer: int) -> T:
        if self.gate == "alone":
            return ops.mul(y, gate)
        if self.gate == "after_norm":
            return ops.mul(self._norm(ops, y, at, layer), gate)
        return self._norm(ops, ops.mul(y, gate), at, layer)

    def _norm(self, ops: Ops[T], y: T, at: str, layer: int) -> T:
        if self.scan.groups == 1:
            return ops.rms_norm(y, f"{at}.norm", self.norm_eps)
        groups = self.scan.groups
        norm = HeadNorm("rms", groups, self.scan.size // groups, self.norm_eps, f"{at}.norm")
        return ops.call(norm, (y,), layer)


def _scaled(ops: Ops[T], x: T, factor: float) -> T:
    return x if factor == 1 else ops.scale(x, factor)
