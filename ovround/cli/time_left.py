"""How long a stage still takes, by what it has taken; nothing is said before a block is whole."""

from __future__ import annotations

import time
from collections.abc import Callable

from ovround.progress import Progress

OVER_ALL = ("end-to-end", "pv-tuning")
"""Stages whose steps are about all blocks together."""


class TimeLeft:
    """Seconds left of the stage of each report, None while they are not known.

    The first block waits for what is read, embedded or compiled before it, so its time counts until a second one is whole. Blocks that
    are tuned together end together, so blocks are counted from one step to another.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last_end = clock()
        self._finished = 0
        self._base: tuple[int, float] | None = None  # blocks finished before the second one or group began, and when
        self._over_all: tuple[str, int, float] | None = None

    def __call__(self, progress: Progress) -> float | None:
        if progress.stage in OVER_ALL:
            return self._of_steps(progress)
        if progress.stage != "quantise":
            if not self._finished and progress.stage != "codebooks":
                self._began = self._clock()
            return None
        now = self._clock()
        if not progress.steps:
            self._finished, self._last_end = self._finished + 1, now
        elif self._base is None and self._finished:
            self._base = (self._finished, self._last_end)
        if not self._finished:
            return None
        count, since = self._base or (0, self._began)
        if self._finished == count:  # the first of those after the base is not whole
            count, since = 0, self._began
        a_block_s = (self._last_end - since) / (self._finished - count)
        return max(0.0, a_block_s * (progress.blocks - progress.block) - (now - self._last_end))

    def _of_steps(self, progress: Progress) -> float | None:
        """Of steps over all blocks, by those since the first that was reported."""
        now = self._clock()
        if self._over_all is None or self._over_all[0] != progress.stage:
            self._over_all = (progress.stage, progress.step, now)
        _, first, since = self._over_all
        done = progress.step - first
        return (now - since) / done * (progress.steps - progress.step) if done else None
