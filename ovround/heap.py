"""The C library's heap, which keeps freed memory: after a tokenizer of 262,144 tokens was read, 416 of 489 MB were free."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Return freed memory to the system; does nothing where the C library has no such call (it is glibc's)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
