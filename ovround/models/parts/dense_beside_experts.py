"""A dense MLP beside a mixture of experts, each between norms of its own (Gemma 4)."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.models.ops import Ops, T
from ovround.models.parts.dense import DenseMlp
from ovround.models.parts.experts import ExpertMlp
from ovround.models.parts.norms import HeadNorm, Norm
from ovround.models.parts.part import Linear
from ovround.models.parts.scale_by import ScaleBy
from ovround.models.state import State

_NORMS = ("dense_norm", "post_dense_norm", "experts_norm", "post_experts_norm")


@dataclass(frozen=True, slots=True)
class DenseBesideExperts:
    """norm(dense(norm(x))) + norm(experts(norm(x))) of x that no norm has seen.

    The router reads x over its root mean square, times its tensor `router_scale` `[K]`, over sqrt(K).
    """

    dense: DenseMlp
    experts: ExpertMlp
    norm: Norm
    name: str = "mlp"

    @property
    def inner_size(self) -> int:
        return self.experts.inner_size + self.dense.inner_size

    def floats(self) -> dict[str, tuple[int, ...]]:
        norms = {name: shape for norm in _NORMS for name, shape in self.norm.tensors(norm).items()}
        return self.experts.floats() | norms | {"router_scale": (self.norm.size,)}

    def linears(self) -> tuple[Linear, ...]:
        return (*self.dense.linears(), *self.experts.linears())

    def states(self) -> tuple[State, ...]:
        return ()

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        before, after, experts_before, experts_after = (f"{at}.{norm}" for norm in _NORMS)
        dense = self.dense.forward(ops, self.norm.forward(ops, x, before), at, layer)
        dense = self.norm.forward(ops, dense, after)
        size = self.norm.size
        routed = ops.call(HeadNorm("rms", 1, size, self.norm.eps), (x,), layer)
        routed = ops.scale(ops.call(ScaleBy(f"{at}.router_scale"), (routed,), layer), size**-0.5)
        mixed = ops.experts(self.norm.forward(ops, x, experts_before), at, self.experts.spec, routed)
        return ops.add(dense, self.norm.forward(ops, mixed, experts_after))
