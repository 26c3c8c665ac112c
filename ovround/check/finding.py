"""A finding of `ovround check`: the trap, where it is, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SEVERITIES = ("fails", "wrong", "slow", "note")  # the gravest first


@dataclass(frozen=True, slots=True)
class Finding:
    """`severity`: the engine refuses the file (fails), computes something else (wrong), takes far more time or memory (slow); or
    it is a note.

    `where` is the first of `count` modules or nodes.
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
    """A trap: its name and severity, the engines that it affects, what it does, and how to fix it."""

    name: str
    severity: str
    engines: tuple[str, ...]
    what: str
    fix: str

    def at(self, names: Iterable[str]) -> list[Finding]:
        """A finding for each engine; none where `names`, the modules or nodes that it affects, are empty."""
        affected = list(names)
        if not affected:
            return []
        return [
            Finding(self.name, self.severity, engine, self.what, affected[0], len(affected), self.fix)
            for engine in self.engines
        ]
