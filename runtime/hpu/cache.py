"""The cache: one flat buffer for each state that a layer declares, whose slot `row * room + position` a step writes by index.

    layers[layer][i]   [rows * room, *shape]       keys and values: [rows * room, H_kv, D]

`shape` is the state's without the axis that grows. The buffers are allocated once for the largest batch and room so far, and
a step sees the beginning of them, so that its shapes are its bucket's and addresses stay. What lies after a row's tokens is
never read before it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.errors import ArchitectureError
from ovround.models.state import State


class Cache:
    """Room for `rows` rows of `room` tokens each. `generation` grows when the buffers move to other addresses.

    Raises ArchitectureError for a state of fixed size.
    """

    def __init__(self, states: Sequence[Sequence[State]], dtype: torch.dtype, device: str) -> None:
        self._slots_of = [
            (_slot_shape(state), torch.float32 if state.dtype == "float32" else dtype)
            for kept in states
            for state in kept
        ]
        self._counts = [len(kept) for kept in states]
        self._device = device
        self._buffers: list[torch.Tensor] = []
        self._slots = self.generation = 0
        self.rows = self.room = 0
        self._shown: list[torch.Tensor] = []
        self.layers: list[tuple[torch.Tensor, ...]] = []

    def clear(self, rows: int, room: int) -> None:
        """Hold nothing, with room for `rows` rows of `room` tokens."""
        self._allocate(rows * room)
        self._show(rows, room)

    def arrange(self, chosen: Sequence[int], rows: int, room: int) -> None:
        """Go on with the `chosen` rows as the first of `rows`, with `room` places each; a row may be chosen twice."""
        padded = [*chosen, *([0] * (rows - len(chosen)))]
        index = torch.tensor(padded, dtype=torch.int64).to(self._device)
        kept = min(room, self.room)
        held = [
            buffer.unflatten(0, (self.rows, self.room)).index_select(0, index).narrow(1, 0, kept)
            for buffer in self._shown
        ]
        self._allocate(rows * room)
        self._show(rows, room)
        for buffer, rest in zip(self._shown, held, strict=True):
            buffer.unflatten(0, (rows, room)).narrow(1, 0, kept).copy_(rest)

    @property
    def size_bytes(self) -> int:
        """Bytes that are allocated."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def _allocate(self, slots: int) -> None:
        if self._slots >= slots:
            return
        self._buffers, self._shown = [], []  # the old ones go before the new ones come
        self.layers = []
        self._buffers = [
            torch.zeros((slots, *shape), dtype=dtype, device=self._device) for shape, dtype in self._slots_of
        ]
        self._slots = slots
        self.generation += 1

    def _show(self, rows: int, room: int) -> None:
        self.rows, self.room = rows, room
        self._shown = [buffer.narrow(0, 0, rows * room) for buffer in self._buffers]
        rest = iter(self._shown)
        self.layers = [tuple(next(rest) for _ in range(count)) for count in self._counts]


def _slot_shape(state: State) -> tuple[int, ...]:
    """The shape of what one token adds to a state."""
    if state.grows is None:
        raise ArchitectureError(f"the state `{state.name}` has a fixed size, which is not built for HPU")
    return state.shape[: state.grows] + state.shape[state.grows + 1 :]
