"""Bytes of one tensor in a file of many."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


def read_bytes(source: BinaryIO, offset: int, size_bytes: int) -> NDArray[np.uint8]:
    """`size_bytes` bytes at `offset` of an open file; raises ValueError when the file is shorter."""
    source.seek(offset)
    data = np.frombuffer(source.read(size_bytes), np.uint8)
    if data.nbytes != size_bytes:
        raise ValueError(f"{data.nbytes} of {size_bytes} bytes at {offset}")
    return data
