"""Progress of a long job. The command line draws it; an application may ignore it, or raise an exception to stop the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of the job's progress.

    `stage` is download, check, note, measure, allocate, codebooks, quantise, end-to-end, pv-tuning, write, verify, resume or damaged.
    The other fields say how far the stage has come. `unreached` counts a block's experts that no calibration token was routed to.

    A loss is the mean squared error of a block's output; in a pass over all blocks it is the divergence in nats a token.

    In the stage resume, `block` counts the blocks that an earlier run had finished. In the stage damaged, the file of
    block `block` (from 0) cannot be used and the block is tuned again. In the stage note, `note` says how the source is read.

    In the stage download, `step` of `steps` bytes have come, and `note` names the file.
    """

    stage: str
    block: int = 0
    blocks: int = 0
    step: int = 0
    steps: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    unreached: int = 0
    note: str = ""


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Ignore the report; the default."""
