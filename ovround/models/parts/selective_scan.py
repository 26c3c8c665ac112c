"""The recurrence of Mamba 2: a state of each head decays by a factor of its own at each token, and gains that token's input.

Dao and Gu 2024, "Transformers are SSMs": s_t = exp(d_t A) s_(t-1) + d_t B_t x_t^T, y_t = C_t s_t + D x_t with
d_t = softplus(step_t + dt_bias) within `limits` and A = -exp(A_log), which is one number a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ovround.errors import ArchitectureError
from ovround.models.parts.part import check_size
from ovround.models.state import State

SCAN_STATE = "scan"


@dataclass(frozen=True, slots=True)
class SelectiveScan:
    """The verb: x, B and C joined `[B, T, H*P + 2*G*N]`, and steps `[B, T, H]` -> y `[B, T, H*P]`.

    Heads `h` with equal h // (H/G) share B and C of N features, x and y have P features a head. The module `at` has
    `{at}.A_log`, `{at}.dt_bias`, `{at}.D`, each `[H]`. The state `scan` `[H, N, P]` stays in float32.
    """

    at: str
    heads: int
    head_dim: int
    groups: int
    state_size: int
    limits: tuple[float, float] = (0.0, math.inf)
    name: str = "selective_scan"

    def __post_init__(self) -> None:
        for name in ("heads", "head_dim", "groups", "state_size"):
            check_size(f"{name} of a Mamba 2 layer", getattr(self, name))
        if self.heads % self.groups:
            raise ArchitectureError(f"{self.heads} heads of Mamba 2 are no multiple of {self.groups} groups")
        if not 0 <= self.limits[0] <= self.limits[1]:
            raise ArchitectureError(f"limits of Mamba 2's steps are {self.limits}; 0 <= least <= most is needed")

    @property
    def size(self) -> int:
        """Features of x and of y."""
        return self.heads * self.head_dim

    @property
    def joined_sizes(self) -> tuple[int, int, int]:
        """Features of x, B and C."""
        return self.size, self.groups * self.state_size, self.groups * self.state_size

    @property
    def is_limited(self) -> bool:
        """Whether the limits change anything: softplus is above 0."""
        return self.limits != (0.0, math.inf)

    def states(self) -> tuple[State, ...]:
        """What it keeps between steps."""
        return (State(SCAN_STATE, (self.heads, self.state_size, self.head_dim), dtype="float32"),)
