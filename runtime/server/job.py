"""One answer on its way: asked for, computed by an engine's process, read. All of it on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ovround.runtime.decoding.completion import Piece
from ovround.runtime.decoding.sampling import SamplingOptions


@dataclass(eq=False, slots=True)
class Job:
    """A prompt, its options, and the pieces of its answer, the last of which is an error or has a finish_reason."""

    prompt_ids: Sequence[int]
    options: SamplingOptions
    pieces: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)
    on_cancel: Callable[[], None] | None = None
    """Who computes it is told so that nobody waits for it any more."""
    cancelled: bool = False
    arrived_s: float = field(default_factory=time.perf_counter)
    started_s: float | None = None
    """When an engine took it up, by the clock of `arrived_s`."""
    begun: bool = False
    """Whether its first piece was read: until then it waits."""

    def cancel(self) -> None:
        """Nobody reads it any more."""
        if not self.cancelled:
            self.cancelled = True
            if self.on_cancel is not None:
                self.on_cancel()
