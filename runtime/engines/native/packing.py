"""Packing of weights for the native operator when a model is loaded, for both engines: memory, and codes in the kernels' layout."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ovround.runtime.engines.native.library import load_kernels
from ovround.tensors.native_layout import Bytes

LINE = 64  # bytes of a cache line
Pack = Callable[[int, Any, bool, tuple[int, int], Bytes], None]


def allocate(sizes: list[int]) -> list[Bytes]:
    """Buffers of these sizes in bytes, in one block of memory.

    The block requests huge pages: with pages of 4 KiB a core read half as many bytes per second.
    """
    total = sum(sizes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        block = np.frombuffer(memory, np.uint8)
    else:
        block = np.empty(total, np.uint8)
    return np.split(block, np.cumsum(sizes)[:-1])


def packer(library: Path) -> Pack:
    """The packing of codes by the kernels beside `library`; OSError if they cannot be loaded."""
    function = load_kernels(library).ovround_pack_integers
    function.restype = None

    def pack(bits: int, codes: Any, signed: bool, shape: tuple[int, int], packed_codes: Bytes) -> None:
        source = np.ascontiguousarray(codes)
        function(
            ctypes.c_int64(bits), source.ctypes.data_as(ctypes.c_void_p), ctypes.c_int(signed), ctypes.c_int64(shape[0]),
            ctypes.c_int64(shape[1]), packed_codes.ctypes.data_as(ctypes.c_void_p),
        )  # fmt: skip

    return pack
