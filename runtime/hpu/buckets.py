"""The shapes that a step may have: graphs are compiled for shapes, so there are few, and every request is padded to one.

A step takes B rows of T tokens over S places of the cache. Longer prompts go in pieces; the last places are room for the
padding of a row's last piece. Nothing is ever run outside the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TOKENS = (1, 8, 16, 32, 64, 128, 256)
_SMALLEST_ROOM, _ROOM_STEP = 256, 128


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """B rows, T tokens each, S places a row in the cache."""

    rows: int
    tokens: int
    room: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """The table for a model whose texts have at most `context_length` tokens."""

    context_length: int

    @property
    def piece(self) -> int:
        """Most tokens of a row in one step."""
        return TOKENS[-1]

    def rooms(self) -> tuple[int, ...]:
        """Places a row: doubled until a whole context and the padding of a piece fit."""
        most = -(-(self.context_length + self.piece) // _ROOM_STEP) * _ROOM_STEP
        rooms = [_SMALLEST_ROOM]
        while rooms[-1] < most:
            rooms.append(min(2 * rooms[-1], most))
        return tuple(min(room, most) for room in rooms)

    def fit(self, rows: int, tokens: int, held: int) -> Shape:
        """The smallest shape for `rows` rows of at most `tokens` new tokens each, the longest holding `held` already.

        Raises ValueError beyond the table: callers have cut rows into pieces and compared them with the context.
        """
        padded = next((size for size in TOKENS if size >= tokens), 0)
        room = next((size for size in self.rooms() if size >= held + padded), 0)
        if not rows or not tokens or not padded or not room:
            raise ValueError(f"no shape for {rows} rows of {tokens} tokens after {held}")
        return Shape(1 << (rows - 1).bit_length(), padded, room)

    def every(self, rows: int, tokens: int) -> Iterator[Shape]:
        """All shapes of batches of `rows` rows whose texts have at most `tokens` tokens, the largest first."""
        last = self.fit(rows, 1, min(tokens, self.context_length) - 1)
        longest = self.fit(rows, min(tokens, self.piece), 0).tokens
        rooms = [room for room in self.rooms() if room <= max(last.room, self.fit(rows, longest, tokens - 1).room)]
        for room in reversed(rooms):
            yield from (Shape(last.rows, size, room) for size in reversed(TOKENS) if size <= longest)
