"""How progress looks: a live line in a terminal, one plain line a block anywhere else; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ovround.progress import Progress

_STAGES = {
    "check": "checking the checkpoint",
    "quantise": "quantising",
    "write": "writing",
    "verify": "reading back",
}


class ProgressDisplay:
    """A context manager to hand to a job as its `on_progress`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started = time.monotonic()
        if not quiet and sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        if self._bar is not None:
            self._draw(self._bar, progress)
        finished_block = progress.stage == "quantise" and not progress.steps
        if finished_block or (self._bar is None and progress.stage != "quantise"):
            self._line(progress)

    def _draw(self, bar: Bar, progress: Progress) -> None:
        if progress.stage != "quantise":
            bar.print(f"[dim]{_STAGES.get(progress.stage, progress.stage)}")
            return
        done = progress.block + (progress.step / progress.steps if progress.steps else 0)
        loss = f" loss {progress.loss_after:.4g}" if progress.steps and progress.loss_after is not None else ""
        text = f"block {min(progress.block + 1, progress.blocks)}/{progress.blocks}"
        text += f" step {progress.step}/{progress.steps}{loss}" if progress.steps else ""
        if self._task is None:
            self._task = bar.add_task(text, total=progress.blocks)
        bar.update(self._task, completed=done, description=text)

    def _line(self, progress: Progress) -> None:
        text = _STAGES.get(progress.stage, progress.stage)
        if progress.stage == "quantise":
            elapsed = time.monotonic() - self._started
            left = elapsed / progress.block * (progress.blocks - progress.block)
            text = f"block {progress.block}/{progress.blocks}"
            if progress.loss_before is not None and progress.loss_after is not None:
                text += f"  loss {progress.loss_before:.4g} -> {progress.loss_after:.4g}"
            text += f"  {elapsed:.0f} s, {left:.0f} s left"
        if self._bar is not None:
            self._bar.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
