"""The cache: one buffer for each state that a layer declares, written by index where the state grows, and whole where not.

    layers[layer][i]   [rows * room, *shape]       keys and values: [rows * room, H_kv, D]; slot `row * room + position`
    layers[layer][i]   [rows, *shape]              a state of fixed size

`shape` is the state's without the axis that grows. The buffers are allocated once for the largest batch and room so far, and
a step sees the beginning of them, so that its shapes are its bucket's and addresses stay. What lies after a row's tokens is
never read before it is written. A state of fixed size starts at zero; it goes back to a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ovround.models.state import State


@dataclass(frozen=True, slots=True)
class _Kind:
    """A state's buffer: what a token adds to it, or where it is `fixed` what a row has."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    fixed: bool

    @classmethod
    def of(cls, state: State, dtype: torch.dtype) -> _Kind:
        """That of `state` where activations have `dtype`."""
        grows = state.grows
        shape = state.shape if grows is None else state.shape[:grows] + state.shape[grows + 1 :]
        return cls(shape, torch.float32 if state.dtype == "float32" else dtype, grows is None)


class Cache:
    """Room for `rows` rows of `room` tokens each. `generation` grows when the buffers move to other addresses."""

    def __init__(self, states: Sequence[Sequence[State]], dtype: torch.dtype, device: str) -> None:
        self._kinds = [_Kind.of(state, dtype) for kept in states for state in kept]
        self._counts = [len(kept) for kept in states]
        self._device = device
        self._buffers: list[torch.Tensor] = []
        self._slots = self._most_rows = self.generation = 0
        self.rows = self.room = 0
        self._shown: list[torch.Tensor] = []
        self.layers: list[tuple[torch.Tensor, ...]] = []

    def clear(self, rows: int, room: int) -> None:
        """Hold nothing, with room for `rows` rows of `room` tokens."""
        self._allocate(rows, room)
        self._show(rows, room)
        for state in self._fixed():
            state.zero_()

    def arrange(self, chosen: Sequence[int], rows: int, room: int) -> None:
        """Go on with the `chosen` rows as the first of `rows`, with `room` places each; a row may be chosen twice."""
        index = self._index(chosen, rows)
        kept = min(room, self.room)
        held = [
            buffer.index_select(0, index)
            if kind.fixed
            else buffer.unflatten(0, (self.rows, self.room)).index_select(0, index).narrow(1, 0, kept)
            for kind, buffer in zip(self._kinds, self._shown, strict=True)
        ]
        self._allocate(rows, room)
        self._show(rows, room)
        for kind, buffer, rest in zip(self._kinds, self._shown, held, strict=True):
            place = buffer if kind.fixed else buffer.unflatten(0, (rows, room)).narrow(1, 0, kept)
            place.copy_(rest)

    def copied(self) -> list[torch.Tensor]:
        """A copy of the states of fixed size."""
        return [state.clone() for state in self._fixed()]

    def restore(self, copy: Sequence[torch.Tensor], chosen: Sequence[int]) -> None:
        """Take the states of fixed size from `copy`, whose rows `chosen` are now the first."""
        index = self._index(chosen, self.rows)
        for state, held in zip(self._fixed(), copy, strict=True):
            state.copy_(held.index_select(0, index))

    @property
    def size_bytes(self) -> int:
        """Bytes that are allocated."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def _fixed(self) -> list[torch.Tensor]:
        return [state for kind, state in zip(self._kinds, self._shown, strict=True) if kind.fixed]

    def _index(self, chosen: Sequence[int], rows: int) -> torch.Tensor:
        padded = [*chosen, *([0] * (rows - len(chosen)))]
        return torch.tensor(padded, dtype=torch.int64).to(self._device)

    def _allocate(self, rows: int, room: int) -> None:
        if self._slots >= rows * room and self._most_rows >= rows:
            return
        self._buffers, self._shown = [], []  # the old ones go before the new ones come
        self.layers = []
        self._slots, self._most_rows = max(self._slots, rows * room), max(self._most_rows, rows)
        self._buffers = [
            torch.zeros(
                (self._most_rows if kind.fixed else self._slots, *kind.shape), dtype=kind.dtype, device=self._device
            )
            for kind in self._kinds
        ]
        self.generation += 1

    def _show(self, rows: int, room: int) -> None:
        self.rows, self.room = rows, room
        self._shown = [
            buffer.narrow(0, 0, rows if kind.fixed else rows * room)
            for kind, buffer in zip(self._kinds, self._buffers, strict=True)
        ]
        rest = iter(self._shown)
        self.layers = [tuple(next(rest) for _ in range(count)) for count in self._counts]
