"""What a long job says while it runs; the command line draws it, an application may ignore it or raise to stop the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the job is. `stage` is check, calibrate, quantise, write or verify; the rest says how far within it."""

    stage: str
    block: int = 0
    blocks: int = 0
    step: int = 0
    steps: int = 0
    loss_before: float | None = None
    loss_after: float | None = None


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The default: say nothing."""
