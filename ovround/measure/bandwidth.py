"""The machine's read bandwidth, which limits decoding: each token reads every weight once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ovround.runtime.devices import available_cores, last_cache_bytes

_MIN_BYTES = 256 << 20
_MAX_BYTES = 1 << 30
_MIN_PASSES = 2
_MIN_S = 0.4  # passes continue until they have taken this time


def measure_read_bandwidth(threads: int | None = None) -> float:
    """Bytes per second that `threads` threads (None: one per core) read from main memory; takes about a second.

    The best of several passes over one array of twice the last-level cache's size, within 256 MiB to 1 GiB. With a larger
    cache the figure is too high.
    """
    workers = threads or available_cores()
    size = min(max(_MIN_BYTES, 2 * last_cache_bytes()), _MAX_BYTES)
    parts = np.array_split(np.ones(size // 8, np.uint64), workers)
    seconds: list[float] = []
    with ThreadPoolExecutor(workers) as pool:
        while len(seconds) < _MIN_PASSES or sum(seconds) < _MIN_S:
            start = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))  # numpy reduces with vector instructions, without the GIL
            seconds.append(time.perf_counter() - start)
    return size / min(seconds)
