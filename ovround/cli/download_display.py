"""How a download looks: a bar with its rate in a terminal, a plain line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from ovround.progress import Progress

_LINE_S = 5.0


class DownloadDisplay:
    """To be called with each report of a download; `end` leaves the terminal as it was."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._started = self._last = 0.0
        self._first_bytes = 0  # of an earlier download, for they took no time of this one

    def __call__(self, progress: Progress) -> None:
        if sys.stderr.isatty():
            self._draw(progress)
        else:
            self._line(progress)

    def end(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = Bar(
                TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
            self._bar.add_task("")
        self._bar.update(
            self._bar.task_ids[0], total=progress.steps, completed=progress.step, description=progress.note
        )

    def _line(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self._started:
            self._started, self._first_bytes = now, progress.step
        done = progress.step >= progress.steps
        if self._last and now - self._last < _LINE_S and not done:
            return
        text = f"downloading {progress.note}: {progress.step / 1e6:.0f} of {progress.steps / 1e6:.0f} MB"
        if now - self._started >= 1:
            text += f", {(progress.step - self._first_bytes) / 1e6 / (now - self._started):.1f} MB/s"
        if not self._last and self._first_bytes:
            text += ", the first from an earlier download"
        print(text, file=sys.stderr, flush=True)
        self._last = now
