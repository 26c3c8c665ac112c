"""Intel Gaudi through PyTorch, or its emulation on the CPU: see `ovround.runtime.hpu`.

Contract: a checkpoint, quantised or not, or a folder that `ovround convert` wrote. Its integers are repacked once for the
device's operator. Steps have shapes from a table; `warm_up` compiles them before the first request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ovround.errors import EngineError, GenerationError, UsageError
from ovround.models.calls import check_verbs
from ovround.models.parts.ends import is_table
from ovround.runtime.engine import Logits, TokenIds, check_ids, check_lengths, check_room
from ovround.runtime.engines.state_history import Moment, StateHistory
from ovround.runtime.hpu.buckets import Buckets, Shape
from ovround.runtime.hpu.cache import Cache
from ovround.runtime.hpu.device import open_backend
from ovround.runtime.hpu.source import open_weights
from ovround.runtime.hpu.step import Run, Step, greedy
from ovround.runtime.hpu.weights import Packer, Stored
from ovround.tensors.qtensor import QTensor


class HpuEngine:
    """See `Engine`. `exact` computes in float32, otherwise bfloat16; `device` is `hpu` or `hpu-emulated`."""

    def __init__(self, folder: Path, device: str, *, exact: bool = False, threads: int | None = None) -> None:
        if threads is not None:
            raise UsageError(f"threads is {threads} and the device {device}; threads are chosen for CPU only")
        self._backend = open_backend(device)
        self._dtype = torch.float32 if exact else torch.bfloat16
        source = open_weights(folder)
        self.vocab_size = source.decoder.config.vocab_size
        self.context_length = source.decoder.config.max_position_embeddings
        self.device, self.kernel = self._backend.name, "engine"
        check_verbs(source.decoder, "hpu")
        self._states = source.decoder.states()
        self._cache = Cache(self._states, self._dtype, self._backend.device)
        packer = Packer(self._dtype, self._backend.device)
        floats: dict[str, torch.Tensor] = {}
        packed: dict[str, Stored] = {}
        self.packed_bytes = 0
        for name, weight in source.weights():
            module = name.removesuffix(".weight")
            if isinstance(weight, QTensor):
                self.packed_bytes += weight.size_bytes
                packed[module] = packer.store(weight, table=is_table(module))
            else:
                floats[name] = packer.plain(weight.float32())
            self._backend.mark_step()  # frees the copy on the host
        self._step: Step | None = Step(source.decoder, floats, packed, self._backend.convert, self._backend.device)
        self._run: Run = self._backend.compiled(self._step)
        self._buckets = Buckets(self.context_length)
        self._lengths: TokenIds = np.zeros(0, np.int64)  # [B]: tokens in each row
        self._rooms: dict[int, torch.Tensor] = {}
        self._shown: tuple[int, int] = (0, 0)
        rewinds = all(state.rewinds for kept in self._states for state in kept)
        self._history: StateHistory[list[torch.Tensor]] | None = None if rewinds else StateHistory()

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        check_ids(prompts, self.vocab_size)
        logits = self._append(prompts, every=False)
        self._remember(prompts)
        self._copy_state("prompt")
        return logits

    def decode(self, ids: Sequence[int]) -> Logits:
        check_ids([ids], self.vocab_size)
        rows = [[token] for token in ids]
        logits = self._append(rows, every=False)
        self._remember(rows)
        return logits

    def extend(self, rows: Sequence[Sequence[int]]) -> Logits:
        check_ids(rows, self.vocab_size)
        if len({len(row) for row in rows}) > 1:
            raise GenerationError("rows of unequal lengths cannot be extended at once")
        if len(rows[0]) > 1:
            self._copy_state("guess")
        logits = self._append(rows, every=True)
        self._remember(rows)
        return logits

    def decode_greedy(self, ids: Sequence[int], count: int) -> TokenIds:
        """The `count` greedy tokens after `ids` `[B]`, int64 `[B, count]`, chosen on the device.

        The cache then holds `ids` and all tokens but the last. Raises GenerationError as `decode` does.
        """
        check_ids([ids], self.vocab_size)
        self._check_rows(len(ids))
        check_room(int(self._lengths.max()) + count, self.context_length)
        self._copy_state("guess")  # the caller drops tokens after an end token
        shape = self._fit(len(ids), 1, int(self._lengths.max()) + count - 1)
        tokens, held = self._upload([[token] for token in ids], shape)
        with torch.no_grad():
            chosen = greedy(self._run, tokens, held, self._room(shape.room), count, self._backend.mark_step)
        self._lengths = self._lengths + count
        tokens_chosen: TokenIds = chosen.cpu().numpy()[: len(ids)].astype(np.int64)
        self._remember([[first, *row[:-1]] for first, row in zip(ids, tokens_chosen.tolist(), strict=True)])
        return tokens_chosen

    def rewind(self, lengths: Sequence[int]) -> None:
        check_lengths(lengths, self._lengths)
        if self._history is None:
            self._lengths = np.asarray(lengths, np.int64)  # later tokens are overwritten before they are read
        elif list(lengths) != self._lengths.tolist():
            self._go_back(self._history, lengths)

    def keep(self, rows: Sequence[int]) -> None:
        self._lengths = self._lengths[list(rows)]
        if self._history is not None:
            self._history.keep(rows)
        batch = self._buckets.fit(max(len(rows), 1), 1, 0).rows
        if list(rows) != list(range(len(rows))) or batch != self._cache.rows:
            with torch.no_grad():
                self._cache.arrange(rows, batch, self._cache.room)

    def reset(self) -> None:
        self._lengths = np.zeros(0, np.int64)
        if self._history is not None:
            self._history.clear()

    def logits(self, ids: TokenIds) -> Logits:
        check_ids(ids, self.vocab_size)
        check_room(ids.shape[1], self.context_length)
        held, cache = self._lengths, self._cache
        self._lengths, self._cache = np.zeros(0, np.int64), Cache(self._states, self._dtype, self._backend.device)
        try:
            return self._append(ids.tolist(), every=True)
        finally:
            self._lengths, self._cache = held, cache

    def close(self) -> None:
        self._step = None
        self._run = _closed
        self._cache = Cache(self._states, self._dtype, self._backend.device)
        self.reset()

    def warm_up(self, rows: int = 1, tokens: int | None = None) -> int:
        """Compile all shapes for `rows` rows of at most `tokens` tokens (default: the context); returns their number."""
        limit = self.context_length if tokens is None else tokens
        if rows < 1 or not 1 <= limit <= self.context_length:
            raise UsageError(f"warm-up for {rows} rows of {limit} tokens; the context is {self.context_length}")
        shapes = list(self._buckets.every(rows, limit))
        for shape in shapes:
            for every in (False, True):
                self._lengths = np.zeros(shape.rows, np.int64)
                self._cache.clear(shape.rows, shape.room)
                self._steps([[0] * shape.tokens] * shape.rows, shape, every=every)
        self.reset()
        return len(shapes)

    def compilations(self) -> int:
        """Number of graphs compiled for the model so far; on a device, for the whole process."""
        return self._backend.compilations()

    def size_bytes(self) -> int:
        """Bytes of the weights, without the cache."""
        tensors = [] if self._step is None else self._step.tensors()
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())

    def cache_bytes(self) -> int:
        """Bytes of the cache."""
        return self._cache.size_bytes

    def _remember(self, rows: Sequence[Sequence[int]]) -> None:
        if self._history is not None:
            self._history.append(rows)

    def _copy_state(self, moment: Moment) -> None:
        """Copy the states of fixed size, where there are any, to go back to."""
        if self._history is not None and len(self._lengths):
            self._history.copied(moment, self._cache.copied())

    def _go_back(self, history: StateHistory[list[torch.Tensor]], lengths: Sequence[int]) -> None:
        """Hold the first `lengths[row]` tokens of each row: from the last copy of the state within them, or from nothing."""
        copy, rest = history.back(lengths)
        with torch.no_grad():
            if copy is None:
                self._cache.clear(self._cache.rows, self._cache.room)
            else:
                self._cache.restore(copy.state, copy.rows)
        self._lengths = np.array([0] * len(rest) if copy is None else copy.lengths, np.int64)
        if any(rest):
            self._append(rest, every=False)

    def _append(self, rows: Sequence[Sequence[int]], *, every: bool) -> Logits:
        """Append each row's ids, in pieces; returns logits `[B, V]` after the last, or `[B, T, V]` with `every`."""
        if not len(self._lengths):
            self._lengths = np.zeros(len(rows), np.int64)
            self._cache.clear(*self._fresh(rows))
        self._check_rows(len(rows))
        longest = int(max(held + len(row) for held, row in zip(self._lengths, rows, strict=True)))
        check_room(longest, self.context_length)
        pieces: list[Logits] = []
        last: Logits = np.zeros((len(rows), self.vocab_size), np.float32)
        for start in range(0, max(map(len, rows)), self._buckets.piece):
            piece = [row[start : start + self._buckets.piece] for row in rows]
            shape = self._fit(len(rows), max(map(len, piece)), int(self._lengths.max()))
            logits = self._steps(piece, shape, every=every, longest=longest)
            if every:
                pieces.append(logits)
            ended = [row for row, ids in enumerate(piece) if len(ids)]
            last[ended] = last[ended] if every else logits[ended]
        return np.concatenate(pieces, axis=1) if every else last

    def _steps(self, rows: Sequence[Sequence[int]], shape: Shape, *, every: bool, longest: int | None = None) -> Logits:
        """One step, which appends the rows' ids, padded to `shape`."""
        self._show()
        ids, held = self._upload(rows, shape)
        counts = np.array([len(row) for row in rows])
        real = np.zeros(shape.rows, np.int64)
        real[: len(rows)] = counts
        length = int((self._lengths + counts).max()) if longest is None else longest
        device = self._backend.device
        with torch.no_grad():
            logits = self._run(
                ids, held, torch.from_numpy(real).to(device), torch.tensor(length, dtype=torch.int32).to(device),
                self._room(shape.room), every,
            )  # fmt: skip
        self._backend.mark_step()
        self._lengths = self._lengths + counts
        values: Logits = logits.cpu().numpy()[: len(rows)]
        return values[:, : int(counts.max())] if every else values

    def _fit(self, rows: int, tokens: int, held: int) -> Shape:
        """The shape for a step; the cache gets room for it."""
        shape = self._buckets.fit(rows, tokens, held)
        if shape.room < self._cache.room:
            shape = Shape(shape.rows, shape.tokens, self._cache.room)
        if shape.room > self._cache.room:
            with torch.no_grad():
                self._cache.arrange(range(len(self._lengths)), shape.rows, shape.room)
        self._show()
        return shape

    def _fresh(self, rows: Sequence[Sequence[int]]) -> tuple[int, int]:
        first = min(max(map(len, rows)), self._buckets.piece)
        shape = self._buckets.fit(len(rows), first, 0)
        return shape.rows, shape.room

    def _show(self) -> None:
        """Give the current cache to the step, and drop graphs that hold the addresses of another one."""
        if self._step is None:
            raise EngineError("the model is closed")
        now = (id(self._cache), self._cache.generation)
        if now != self._shown:
            self._backend.moved()
            self._shown = now
        self._step.show(self._cache)

    def _upload(self, rows: Sequence[Sequence[int]], shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int32 `[B, T]` and number of cached tokens int32 `[B]`, padded, on the device."""
        ids = np.zeros((shape.rows, shape.tokens), np.int32)
        held = np.zeros(shape.rows, np.int32)
        held[: len(rows)] = self._lengths
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        return torch.from_numpy(ids).to(self._backend.device), torch.from_numpy(held).to(self._backend.device)

    def _room(self, room: int) -> torch.Tensor:
        """A tensor of `room` elements; its shape tells the step the capacity of a row."""
        if room not in self._rooms:
            self._rooms[room] = torch.zeros(room, dtype=torch.int8).to(self._backend.device)
        return self._rooms[room]

    def _check_rows(self, rows: int) -> None:
        if rows != len(self._lengths):
            raise GenerationError(f"{rows} rows for a batch of {len(self._lengths)}")


def _closed(
    ids: torch.Tensor, held: torch.Tensor, counts: torch.Tensor, length: torch.Tensor, room: torch.Tensor, every: bool
) -> torch.Tensor:
    raise EngineError("the model is closed")
