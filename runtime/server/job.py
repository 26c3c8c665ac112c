"""One answer of a request, from its arrival to its last piece. Used on the event loop only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ovround.runtime.decoding.completion import Piece
from ovround.runtime.decoding.sampling import SamplingOptions


@dataclass(eq=False, slots=True)
class Job:
    """A prompt, its options, and the pieces of its answer; the last piece is an error or has a finish_reason."""

    prompt_ids: Sequence[int]
    options: SamplingOptions
    pieces: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)
    on_cancel: Callable[[], None] | None = None
    """Called once when the answer is no longer wanted."""
    cancelled: bool = False
    arrived_s: float = field(default_factory=time.perf_counter)
    started_s: float | None = None
    """Time at which the engine began, by the clock of `arrived_s`."""
    begun: bool = False
    """Whether its first piece was read; before that the job counts as waiting."""

    def cancel(self) -> None:
        """Report to the engine that the answer is no longer wanted."""
        if not self.cancelled:
            self.cancelled = True
            if self.on_cancel is not None:
                self.on_cancel()
