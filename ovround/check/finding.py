"""One trap that was found: what it is, where, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SEVERITIES = ("fails", "wrong", "slow", "note")  # the gravest first


@dataclass(frozen=True, slots=True)
class Finding:
    """`severity`: the engine refuses it (fails), computes something else (wrong), takes far more time or memory (slow), or note.

    `where` is the first of `count` places.
    """

    rule: str
    severity: str
    engine: str
    what: str
    where: str
    count: int
    fix: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r} is none of {SEVERITIES}")


@dataclass(frozen=True, slots=True)
class Rule:
    """A trap: its name and severity, the engines that it is one on, and its words."""

    name: str
    severity: str
    engines: tuple[str, ...]
    what: str
    fix: str

    def at(self, places: Iterable[str]) -> list[Finding]:
        """A finding for each engine, where there is any place."""
        found = list(places)
        if not found:
            return []
        return [
            Finding(self.name, self.severity, engine, self.what, found[0], len(found), self.fix)
            for engine in self.engines
        ]
