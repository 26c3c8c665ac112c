"""An RMS norm over groups of features, each with weights of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupedNorm:
    """The verb: each of `groups` equal parts of `[B, T, size]` over its root mean square, times `{at}.weight` `[size]`."""

    at: str
    groups: int
    size: int
    eps: float
    name: str = "grouped_norm"
