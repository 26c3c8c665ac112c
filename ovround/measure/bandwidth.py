"""How fast this machine reads memory: the ceiling of decoding, which reads every weight once a token."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ovround.runtime.devices import available_cores, last_cache_bytes

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
