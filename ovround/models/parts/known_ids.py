"""The verb `known_ids`: ids for a table of fewer rows than the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownIds:
    """Token ids `[B, T]` -> the same, 0 in place of those from `count` on."""

    count: int
    name: str = "known_ids"
