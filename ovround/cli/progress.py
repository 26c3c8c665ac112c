"""How progress looks: a live line in a terminal, one plain line a block anywhere else; always on stderr."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from ovround.cli.download_display import DownloadDisplay
from ovround.cli.time_left import OVER_ALL, TimeLeft
from ovround.cli.working import Working, say
from ovround.options.units import shown_duration
from ovround.progress import Progress

_STAGES = {
    "check": "checking the checkpoint",
    "measure": "measuring the first block",
    "allocate": "allocating bits",
    "quantise": "quantising",
    "write": "writing",
    "verify": "reading back",
}
_LINES = 10  # of the steps over all blocks, where no bar is drawn
_BLOCK_LINE_S = 1.0  # between two blocks that are rounded or kept, which takes milliseconds each


class ProgressDisplay:
    """A context manager to hand to a job as its `on_progress`; `starting` is what the job does before its first report."""

    def __init__(self, starting: str, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._working = Working(starting, quiet=quiet)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._download = DownloadDisplay()
        self._started = time.monotonic()
        self._block_line = -math.inf
        self._time_left = TimeLeft()
        if not quiet and sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
                TextColumn("{task.fields[left]}"),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip

    def __enter__(self) -> ProgressDisplay:
        self._working.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._working.end()
        self._download.end()
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        self._working.end()
        if progress.stage == "download":
            self._download(progress)
            return
        self._download.end()
        left_s = self._time_left(progress)
        left = "" if left_s is None else f"{shown_duration(left_s)} left"
        if self._bar is not None:
            self._bar.start()
            self._draw(self._bar, progress, left)
        finished_block = progress.stage == "quantise" and not progress.steps and not self._soon_after(progress)
        between = progress.stage in OVER_ALL and 0 < progress.step < progress.steps
        if between and (self._bar is not None or progress.step % max(1, progress.steps // _LINES)):
            return
        if finished_block or (self._bar is None and progress.stage not in ("quantise", "codebooks")):
            self._line(progress, left)

    def _soon_after(self, progress: Progress) -> bool:
        """Whether the line of a block would follow another at once; that of the last block is always written."""
        now = time.monotonic()
        soon = (
            progress.loss_after is None and now - self._block_line < _BLOCK_LINE_S and progress.block < progress.blocks
        )
        if not soon:
            self._block_line = now
        return soon

    def _draw(self, bar: Bar, progress: Progress, left: str) -> None:
        if progress.stage in OVER_ALL:
            bar.update(
                self._task if self._task is not None else bar.add_task("", left=""), total=progress.steps,
                completed=progress.step, description=_description(progress), left=left,
            )  # fmt: skip
            return
        if progress.stage == "codebooks":
            if self._task is None:
                self._task = bar.add_task("", total=progress.blocks, left="")
            at = f"block {progress.block + 1}/{progress.blocks} codebooks {progress.step}/{progress.steps}"
            bar.update(self._task, completed=progress.block, description=at)
            return
        if progress.stage != "quantise":
            bar.print(f"[dim]{escape(_description(progress))}", highlight=False)
            return
        done = progress.block + (progress.step / progress.steps if progress.steps else 0)
        loss = f" loss {progress.loss_after:.4g}" if progress.steps and progress.loss_after is not None else ""
        text = f"block {min(progress.block + 1, progress.blocks)}/{progress.blocks}"
        text += f" step {progress.step}/{progress.steps}{loss}" if progress.steps else ""
        if self._task is None:
            self._task = bar.add_task(text, total=progress.blocks, left="")
        bar.update(self._task, completed=done, description=text, left=left)

    def _line(self, progress: Progress, left: str) -> None:
        text = _description(progress)
        if progress.stage in OVER_ALL and left:
            text += f"  {left}"
        if progress.stage == "quantise":
            text = f"block {progress.block}/{progress.blocks}"
            if progress.loss_before is not None and progress.loss_after is not None:
                text += f"  loss {progress.loss_before:.4g} -> {progress.loss_after:.4g}"
            text += f"  {time.monotonic() - self._started:.0f} s"
            if left:
                text += f", {left} for the blocks"
            if progress.unreached:
                text += f"  warning: no calibration token reached {progress.unreached} expert(s), which are rounded to nearest"
        if self._bar is not None:
            self._bar.print(text, highlight=False)
        else:
            say(text)


def _description(progress: Progress) -> str:
    if progress.stage == "note":
        return f"note: {progress.note}"
    if progress.stage == "resume":
        return f"block {progress.block}/{progress.blocks}  finished by an earlier run"
    if progress.stage in OVER_ALL:
        name = "PV-Tuning" if progress.stage == "pv-tuning" else "all blocks"
        return f"{name}  step {progress.step}/{progress.steps}  KL {progress.loss_after:.4f} nats"
    if progress.stage == "damaged":
        return f"block {progress.block + 1}/{progress.blocks}  kept by an earlier run, but damaged: once more"
    return _STAGES.get(progress.stage, progress.stage)
