"""Alternating updates (Baykal et al. 2023): several streams of hidden states, of which a block computes one and corrects all.

The streams lie side by side, `[B, T, count * hidden_size]`. What is done with them is the verb `altup`, one record an operation.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovround.models.ops import Ops, T

SPREAD, MERGE = "model.altup_projections", "model.altup_unembed_projections"
LEAST = 1e-5  # of a mean square that is divided by


@dataclass(frozen=True, slots=True)
class TakeStream:
    """Streams -> the one at `index`, `[B, T, hidden_size]`."""

    index: int
    count: int
    name: str = "altup"


@dataclass(frozen=True, slots=True)
class JoinStreams:
    """`count` tensors `[B, T, hidden_size]` -> streams."""

    count: int
    name: str = "altup"


@dataclass(frozen=True, slots=True)
class MixStreams:
    """Streams, coefficients `[B, T, count^2]` -> streams: to each, the sum of all by its row of coefficients is added."""

    count: int
    name: str = "altup"


@dataclass(frozen=True, slots=True)
class CorrectStreams:
    """Streams, the innovation `[B, T, hidden_size]`, coefficients c `[B, T, count]` -> streams, to which (1 + c) times it is added."""

    count: int
    name: str = "altup"


@dataclass(frozen=True, slots=True)
class AddToOthers:
    """Streams, y `[B, T, hidden_size]` -> streams, to all of which but the first y is added."""

    count: int
    name: str = "altup"


@dataclass(frozen=True, slots=True)
class MatchMagnitude:
    """y, x `[B, T, hidden_size]` -> y with the root mean square of x; that of y is taken as `LEAST`^(1/2) at least."""

    name: str = "altup"


@dataclass(frozen=True, slots=True)
class Streams:
    """The two ends of a model with `count` streams: what makes them of an embedding, and one of them again.

    Each further stream is a projection of the first with its magnitude, and goes back the same way; the last hidden states are
    the mean.
    """

    count: int
    hidden_size: int

    def tensors(self, at: str) -> dict[str, tuple[int, ...]]:
        """Name and shape of each projection of `at`, `SPREAD` or `MERGE`."""
        size = self.hidden_size
        return {f"{at}.{index}.weight": (size, size) for index in range(self.count - 1)}

    def spread(self, ops: Ops[T], x: T) -> T:
        """`[B, T, hidden_size]` -> streams."""
        return ops.call(JoinStreams(self.count), (x, *self._projected(ops, SPREAD, [x] * (self.count - 1), x)), 0)

    def merged(self, ops: Ops[T], x: T) -> T:
        """Streams -> `[B, T, hidden_size]`."""
        first, *others = (ops.call(TakeStream(index, self.count), (x,), 0) for index in range(self.count))
        total = first
        for other in self._projected(ops, MERGE, others, first):
            total = ops.add(total, other)
        return ops.scale(total, 1 / self.count)

    def _projected(self, ops: Ops[T], at: str, values: list[T], like: T) -> list[T]:
        projected = (ops.linear(value, f"{at}.{index}") for index, value in enumerate(values))
        return [ops.call(MatchMagnitude(), (value, like), 0) for value in projected]
