"""Hidden states of the calibration samples, in memory or in a mapped file, with the same values.

They are read and written a batch of rows at a time. After each batch the pages of a mapped file are given back to the system.
It keeps them as long as it has room, as its cache: they do not count as this process's memory.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import sys
from pathlib import Path
from typing import BinaryIO

import torch

FLOAT_BYTES = 4
_ZEROS_BYTES = 1 << 24


class Activations:
    """Rows of hidden states `[S, T, hidden]` float32; `tensor` is all of them, mapped when a `path` was given.

    Indexing by a slice of rows gives a view, by a tensor of row numbers a copy, as for `tensor` itself.
    """

    def __init__(self, shape: tuple[int, ...], path: Path | None = None) -> None:
        """Room for `shape`, its values undefined; raises OSError when the disk has no room for the file."""
        self._path, self._map = path, None if path is None else _mapped(path, shape)
        # A map is aligned to a page and torch's own memory to 64 bytes, so kernels that choose by alignment choose the same.
        self.tensor = (
            torch.empty(shape) if self._map is None else torch.frombuffer(self._map, dtype=torch.float32).view(shape)
        )

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, rows: slice | torch.Tensor) -> torch.Tensor:
        return self.tensor[rows]

    def __setitem__(self, rows: slice, values: torch.Tensor) -> None:
        self.tensor[rows] = values

    def release(self) -> None:
        """Give a mapped file's pages back to the system, without losing them; for between two batches."""
        if self._map is not None and sys.platform != "win32":
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Forget the values and remove the file; safe to call more than once."""
        self.tensor = torch.empty((0, *self.tensor.shape[1:]))
        self._map = None  # not closed: a view that is still in use would lose its memory
        if self._path is not None:
            with contextlib.suppress(OSError):  # the next run removes a file that cannot be removed while it is open
                self._path.unlink(missing_ok=True)


def _mapped(path: Path, shape: tuple[int, ...]) -> mmap.mmap:
    size = math.prod(shape) * FLOAT_BYTES
    with path.open("wb+") as file:
        try:
            _reserve(file, size)
            mapped = mmap.mmap(file.fileno(), size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    with contextlib.suppress(OSError):  # without a name, the file ends with its process, except on Windows
        path.unlink()
    return mapped


def _reserve(file: BinaryIO, size: int) -> None:
    """Claim the disk space now; a full disk would later end the process without a message."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, _ZEROS_BYTES):
        file.write(bytes(min(_ZEROS_BYTES, size - start)))
    file.flush()
