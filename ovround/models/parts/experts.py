"""A mixture of experts: a router, which stays in float, and MLPs of which each token takes a few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ovround.errors import ArchitectureError
from ovround.models.ops import Experts, Ops, Routing, T
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State

EXPERTS = "mlp.experts"
_LATENT_IN, _LATENT_OUT = "latent_in_proj", "latent_out_proj"
_MOST_EXPERTS = 4096


@dataclass(frozen=True, slots=True)
class ExpertMlp:
    """An MLP; `spec` says how the router's logits weigh the experts. `bias` is that of each expert's linear layers.

    The bias of a choice may lie in a tensor with `bias_axes` axes of size 1 before the experts'. With `latent_size` the experts
    work on so many features, between two projections that all share and that may have a bias (`latent_bias`).
    """

    hidden_size: int
    spec: Experts
    bias: bool = False
    router_bias: bool = False
    bias_axes: int = 0
    latent_size: int | None = None
    latent_bias: bool = False
    name: str = "mlp"

    def __post_init__(self) -> None:
        spec = self.spec
        if self.latent_size is not None:
            check_size("moe_latent_size", self.latent_size)
        if self.expert_size % 2 or spec.intermediate_size % 2:
            raise ArchitectureError(f"experts of {self.expert_size} x {spec.intermediate_size}; even sizes are needed")
        if not 0 < spec.top_k <= spec.count <= _MOST_EXPERTS:
            raise ArchitectureError(
                f"{spec.top_k} of {spec.count} experts a token; at most {_MOST_EXPERTS} experts, and 1 "
                "to all of them a token, are allowed"
            )
        if spec.routing is not None:
            _check_groups(spec, spec.routing)

    @property
    def expert_size(self) -> int:
        """Features that an expert reads and gives."""
        return self.hidden_size if self.latent_size is None else self.latent_size

    @property
    def inner_size(self) -> int:
        return self.spec.top_k * self.spec.intermediate_size + 2 * (self.latent_size or 0)

    def floats(self) -> dict[str, tuple[int, ...]]:
        bias: dict[str, tuple[int, ...]] = {"gate.bias": (self.spec.count,)} if self.router_bias else {}
        scale = {"gate.scale": (self.spec.count,)} if self.spec.scaled else {}
        if self.spec.routing is not None and self.spec.routing.biased:
            bias["gate.e_score_correction_bias"] = (*(1,) * self.bias_axes, self.spec.count)
        return {"gate.weight": (self.spec.count, self.hidden_size), **bias, **scale}

    def linears(self) -> tuple[Linear, ...]:
        experts = tuple(linear for expert in range(self.spec.count) for linear in self._expert(expert))
        if self.latent_size is None:
            return experts
        into = Linear(_LATENT_IN, self.latent_size, self.hidden_size, self.latent_bias)
        return (into, *experts, Linear(_LATENT_OUT, self.hidden_size, self.latent_size, self.latent_bias))

    def _expert(self, expert: int) -> Iterator[Linear]:
        inner, hidden, share = self.spec.intermediate_size, self.expert_size, self.spec.top_k / self.spec.count
        into = {"gate_proj": inner, "up_proj": inner} if self.spec.gated else {"up_proj": inner}
        if self.spec.clamped is not None:
            into = {"gate_up_proj": 2 * inner}
        for name, outputs in into.items():
            full, fused, stack = f"experts.{expert}.{name}", "experts.gate_up_proj", f"experts.{name}"
            yield Linear(full, outputs, hidden, self.bias, fused, stack, share)
        stack = "experts.down_proj"
        yield Linear(f"experts.{expert}.down_proj", hidden, inner, self.bias, stack, stack, share)

    def states(self) -> tuple[State, ...]:
        return ()

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        if self.latent_size is None:
            return ops.experts(x, at, self.spec)
        latent = ops.linear(x, f"{at}.{_LATENT_IN}")
        return ops.linear(ops.experts(latent, at, self.spec, x), f"{at}.{_LATENT_OUT}")


def _check_groups(spec: Experts, routing: Routing) -> None:
    """Raise ArchitectureError for groups that are not of equal sizes, or too small to choose from."""
    groups, top_groups = routing.groups, routing.top_groups
    fits = 0 < top_groups <= groups and spec.count % groups == 0
    size = spec.count // groups if fits else 0
    least = 2 if routing.group_score == "two" and groups > 1 else 1
    if size < least or size * top_groups < spec.top_k:
        raise ArchitectureError(
            f"{spec.top_k} experts a token from {top_groups} of {groups} groups (n_group, topk_group) of {spec.count} experts"
        )
