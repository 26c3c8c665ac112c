"""What a long job says while it runs; the command line draws it, an application may ignore it or raise to stop the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the job is. `stage` is check, allocate, codebooks, quantise, end-to-end, pv-tuning, write or verify.

    The rest says how far within it.

    `unreached` counts a block's experts that no calibration token chose.

    Losses are mean squared errors of a block's output, of the passes over all blocks divergences in nats a token.

    `resume` counts the blocks that an earlier run had finished; `damaged` says that the file of block number `block`, from
    0, cannot be used and that the block is tuned again.
    """

    stage: str
    block: int = 0
    blocks: int = 0
    step: int = 0
    steps: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    unreached: int = 0


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The default: say nothing."""
