"""The machine's read bandwidth, which limits decoding: each token reads every weight once."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ovround.runtime.devices import available_cores, last_cache_bytes

_MIN_BYTES = 256 << 20
_MAX_BYTES = 1 << 30
_WINDOW_BYTES = 16 << 20  # a thread reads in a window: some milliseconds, which others often leave undisturbed
_BURSTS, _BURST_S, _PAUSE_S = 5, 0.1, 0.02  # who has waited is not interrupted at once


def measure_read_bandwidth(threads: int | None = None) -> float:
    """Bytes per second that `threads` threads (None: one per core) read from main memory; takes about a second.

    The best of many short windows, each the next part of an array of twice the last-level cache's size, within 256 MiB to
    1 GiB. With a larger cache the figure is too high.
    """
    workers = threads or available_cores()
    size = min(max(_MIN_BYTES, 2 * last_cache_bytes()), _MAX_BYTES)
    count = max(1, size // (workers * _WINDOW_BYTES))
    windows = [np.array_split(window, workers) for window in np.array_split(np.ones(size // 8, np.uint64), count)]
    following, rates = itertools.cycle(windows), list[float]()
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(_BURSTS):
            end = time.perf_counter() + _BURST_S
            while time.perf_counter() < end:
                parts = next(following)
                start = time.perf_counter()
                list(pool.map(np.bitwise_or.reduce, parts))  # numpy reduces with vector instructions, without the GIL
                rates.append(sum(part.nbytes for part in parts) / (time.perf_counter() - start))
            time.sleep(_PAUSE_S)
    return max(rates)
