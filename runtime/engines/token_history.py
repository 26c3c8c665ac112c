"""The tokens that an engine holds, for a model whose state has a fixed size: such a state cannot go back, so it starts again."""

from __future__ import annotations

from collections.abc import Sequence


class TokenHistory:
    """The ids of each row. An engine appends what it computes, and computes again what `cut` returns."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []

    def append(self, rows: Sequence[Sequence[int]]) -> None:
        """Each row has been given these ids."""
        self._rows = [[*held, *fresh] for held, fresh in zip(self._rows or [[]] * len(rows), rows, strict=True)]

    def keep(self, rows: Sequence[int]) -> None:
        """As `Engine.keep`."""
        self._rows = [self._rows[row] for row in rows]

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        """The first `lengths[row]` ids of each row."""
        return [row[:length] for row, length in zip(self._rows, lengths, strict=True)]

    def clear(self) -> None:
        """Forget everything."""
        self._rows = []
