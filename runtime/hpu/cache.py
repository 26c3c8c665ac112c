"""The KV cache: one flat buffer a layer and part, whose place `row * room + position` a step writes by index.

    keys[layer], values[layer]   [rows * room, H_kv, D]

The buffers are allocated once for the largest batch and room so far, and a step sees the beginning of them, so that its
shapes are its bucket's and addresses stay. What lies behind a row's tokens is never read before it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovround.models.decoder import Decoder


class Cache:
    """Room for `rows` rows of `room` tokens each. `generation` grows when the buffers move to other addresses."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype, device: str) -> None:
        config = decoder.config
        self._place = (config.num_key_value_heads, config.head_dim)
        self._count = 2 * config.num_hidden_layers
        self._dtype, self._device = dtype, device
        self._buffers: list[torch.Tensor] = []
        self.generation = 0
        self.rows = self.room = 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

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
            for buffer in (*self.keys, *self.values)
        ]
        self._allocate(rows * room)
        self._show(rows, room)
        for buffer, rest in zip((*self.keys, *self.values), held, strict=True):
            buffer.unflatten(0, (rows, room)).narrow(1, 0, kept).copy_(rest)

    @property
    def size_bytes(self) -> int:
        """Bytes that are allocated."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def _allocate(self, places: int) -> None:
        if self._buffers and len(self._buffers[0]) >= places:
            return
        self._buffers = []  # the old ones go before the new ones come
        self.keys, self.values = [], []
        empty = [
            torch.zeros((places, *self._place), dtype=self._dtype, device=self._device) for _ in range(self._count)
        ]
        self._buffers = empty
        self.generation += 1

    def _show(self, rows: int, room: int) -> None:
        self.rows, self.room = rows, room
        shown = [buffer.narrow(0, 0, rows * room) for buffer in self._buffers]
        self.keys, self.values = shown[::2], shown[1::2]
