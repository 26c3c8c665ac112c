"""How many threads torch uses for a piece of work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

# Up to this many multiplications a step uses one thread. Such a step lasts some 10 ms. On a busy machine, threads that wait
# for one another at each of its 500 small operations made it ten times slower.
ONE_THREAD_WORK = 1 << 30


@contextlib.contextmanager
def threads_for(work: int) -> Iterator[None]:
    """One thread for steps of at most ONE_THREAD_WORK multiplications, torch's own setting for larger ones."""
    before = torch.get_num_threads()
    if work <= ONE_THREAD_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
