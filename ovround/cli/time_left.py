"""How long a stage still takes, by what it has taken; nothing is said before a block is whole."""

from __future__ import annotations

import time
from collections.abc import Callable

from ovround.progress import Progress

OVER_ALL = ("end-to-end", "pv-tuning")
"""Stages whose steps are about all blocks together."""


class TimeLeft:
    """Seconds left of the stage of each report, None while they are not known.

    The first block waits for what is read, embedded or compiled before it. So its time counts from its first step, until a second
    block is whole; where nothing is stepped, nothing is said until then. Blocks that are tuned together end together.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._finished, self._last_end = 0, clock()
        self._first_step: tuple[Progress, float] | None = None
        self._base: tuple[int, float] | None = None  # blocks finished before the second one or group began, and when
        self._together = 1
        self._over_all: tuple[str, int, float] | None = None

    def __call__(self, progress: Progress) -> float | None:
        if progress.stage in OVER_ALL:
            return self._of_steps(progress)
        if progress.stage != "quantise":
            return None
        now = self._clock()
        if progress.steps and self._first_step is None:
            self._first_step = (progress, now)
        if self._base is None and self._finished and (progress.steps or self._first_step is None):
            self._base = (self._finished, self._last_end)
            if self._first_step is not None:
                self._together = max(1, progress.block - self._first_step[0].block)
        if not progress.steps:
            self._finished, self._last_end = self._finished + 1, now
        a_block_s = self._a_block_s()
        if a_block_s is None:
            return None
        behind = -self._finished % self._together  # blocks that have ended too, and are reported next
        return max(0.0, a_block_s * (progress.blocks - progress.block - behind) - (now - self._last_end))

    def _a_block_s(self) -> float | None:
        """Seconds a block by the whole ones after the first, or by the steps of the first."""
        if self._base is not None and self._finished > self._base[0]:
            count = self._finished - self._base[0]
            return (self._last_end - self._base[1]) / (count + -count % self._together)
        if self._first_step is None or not self._finished:
            return None
        step, since = self._first_step
        if step.step >= step.steps:
            return None
        share = (step.steps - step.step) / step.steps
        return (self._last_end - since) / share / (self._base[0] if self._base is not None else self._finished)

    def _of_steps(self, progress: Progress) -> float | None:
        """Of steps over all blocks, by those since the first that was reported."""
        now = self._clock()
        if self._over_all is None or self._over_all[0] != progress.stage:
            self._over_all = (progress.stage, progress.step, now)
        _, first, since = self._over_all
        done = progress.step - first
        return (now - since) / done * (progress.steps - progress.step) if done else None
