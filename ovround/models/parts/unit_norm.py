"""The verb `unit_norm`: an RMS norm without a weight."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnitNorm:
    """`[B, T, size]` over its root mean square, each of `heads` equal parts by itself -> `[B, T, size]`."""

    size: int
    eps: float
    heads: int = 1
    name: str = "unit_norm"
