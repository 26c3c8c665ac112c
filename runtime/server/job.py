"""One answer on its way: asked for on the event loop, computed in an engine's thread, read on the event loop again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ovround.runtime.completion import Piece
from ovround.runtime.sampling import SamplingOptions


@dataclass(eq=False, slots=True)
class Job:
    """Made on the event loop. Only `cancelled`, a flag, is shared with the engine's thread without a lock."""

    prompt_ids: Sequence[int]
    options: SamplingOptions
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    arrived_s: float = field(default_factory=time.perf_counter)
    started_s: float | None = None
    """When an engine took it up, by the clock of `arrived_s`."""
    begun: bool = False
    """Whether its first piece was read: until then it waits."""

    def give(self, what: Piece | Exception) -> None:
        """From the engine's thread: a piece, or the error that ends the answer."""
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, what)
        except RuntimeError:  # the loop has closed: nobody reads any more
            self.cancelled = True
