"""Bytes of one tensor in a file of many."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


def read_bytes(source: BinaryIO, offset: int, size_bytes: int) -> NDArray[np.uint8]:
    """`size_bytes` bytes at `offset` of an open file; raises ValueError when the file is shorter."""
    there = source.seek(0, os.SEEK_END) - offset
    source.seek(offset)
    if not 0 <= size_bytes <= there:
        raise ValueError(f"{max(0, there)} of {size_bytes} bytes at {offset}")
    return np.fromfile(source, np.uint8, size_bytes)  # an array of its own, which may be decoded in place
