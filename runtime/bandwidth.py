"""How fast this machine reads memory: the ceiling of decoding, which reads every weight once a token."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_LEAST_BYTES = 256 << 20
_MOST_BYTES = 1 << 30
_PASSES = 2  # at least; more while they have taken less than this:
_BUDGET_S = 0.4


def measure_read_bandwidth(threads: int | None = None) -> float:
    """Bytes per second that `threads` threads (None: every core) read from main memory; takes about a second.

    The best of several passes over one array of twice the last cache's size, 256 MiB to 1 GiB. A cache that is larger
    still (or shared with other machines) flatters the figure.
    """
    workers = threads or available_cores()
    size = min(max(_LEAST_BYTES, 2 * last_cache_bytes()), _MOST_BYTES)
    parts = np.array_split(np.ones(size // 8, np.uint64), workers)
    seconds: list[float] = []
    with ThreadPoolExecutor(workers) as pool:
        while len(seconds) < _PASSES or sum(seconds) < _BUDGET_S:
            start = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))  # numpy reduces with vector instructions and without the GIL
            seconds.append(time.perf_counter() - start)
    return size / min(seconds)


def available_cores() -> int:
    """Logical cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_cache_bytes() -> int:
    """Size of the last-level cache as Linux tells it; 0 where nobody does."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        digits = text.rstrip("KM")
        sizes.append(int(digits) * unit if digits.isdigit() else 0)
    return max(sizes)
