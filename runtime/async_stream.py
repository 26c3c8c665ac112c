"""A stream of pieces for `async for`: each token is computed in a thread, so the event loop stays free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from ovround.runtime.decoding.completion import Piece


class Turns:
    """Lets the requests of one event loop wait for each other."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    def lock(self) -> asyncio.Lock:
        """The lock of the running loop: one that another loop has waited for cannot be used."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock


async def async_pieces(turns: Turns, begin: Callable[[], Iterator[Piece]]) -> AsyncIterator[Piece]:
    """The pieces of the stream that `begin` starts when the requests before it have ended.

    Leaving the loop, or cancelling the task, cancels the rest of the answer.
    """
    async with turns.lock():
        stream = await asyncio.to_thread(begin)
        while (piece := await asyncio.to_thread(next, stream, None)) is not None:
            yield piece
