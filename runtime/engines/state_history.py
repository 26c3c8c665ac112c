"""How a model whose state has a fixed size goes back: from a copy of that state, by the tokens that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

State = TypeVar("State")
Moment = Literal["prompt", "guess"]
"""When a copy is made: after a prompt, where a chat's next one often parts from the answer; before guessed tokens."""


@dataclass(frozen=True, slots=True)
class Copy(Generic[State]):
    """The state after the first `lengths[row]` tokens of each row; `rows[row]` is its place in `state`."""

    lengths: list[int]
    rows: list[int]
    state: State


class StateHistory(Generic[State]):
    """The ids of each row, and the newest copy of each moment. An engine appends what it computes."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._copies: dict[Moment, Copy[State]] = {}

    def append(self, rows: Sequence[Sequence[int]]) -> None:
        """Each row has been given these ids."""
        self._rows = [[*held, *fresh] for held, fresh in zip(self._rows or [[]] * len(rows), rows, strict=True)]

    def copied(self, moment: Moment, state: State) -> None:
        """`state` is a copy of what the engine has after the ids so far."""
        self._copies[moment] = Copy([len(row) for row in self._rows], list(range(len(self._rows))), state)

    def keep(self, rows: Sequence[int]) -> None:
        """As `Engine.keep`."""
        self._rows = [self._rows[row] for row in rows]
        self._copies = {
            moment: Copy([copy.lengths[row] for row in rows], [copy.rows[row] for row in rows], copy.state)
            for moment, copy in self._copies.items()
        }

    def back(self, lengths: Sequence[int]) -> tuple[Copy[State] | None, list[list[int]]]:
        """Keep the first `lengths[row]` ids; returns the longest copy within them, and the ids that follow it in each row."""
        self._rows = [row[:length] for row, length in zip(self._rows, lengths, strict=True)]
        self._copies = {
            moment: copy
            for moment, copy in self._copies.items()
            if all(held <= length for held, length in zip(copy.lengths, lengths, strict=True))
        }
        copy = max(self._copies.values(), key=lambda copy: sum(copy.lengths), default=None)
        held = [0] * len(self._rows) if copy is None else copy.lengths
        return copy, [row[start:] for row, start in zip(self._rows, held, strict=True)]

    def ids(self) -> list[list[int]]:
        """The ids of each row."""
        return self._rows

    def clear(self) -> None:
        """Forget everything."""
        self._rows, self._copies = [], {}
