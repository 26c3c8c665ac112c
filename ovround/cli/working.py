"""What a command does while nothing else shows it: on stderr, and only once it takes longer than a moment."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_MOMENT_S = 1.0
_LINE_S = 10.0  # between two lines where they are not written over each other


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show `what` in a terminal after a second; the line is gone in the end."""
    if not sys.stderr.isatty():
        yield
        return
    shown = threading.Event()

    def show() -> None:
        shown.set()
        print(what, end="", file=sys.stderr, flush=True)

    timer = threading.Timer(_MOMENT_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if shown.is_set():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Counter:
    """Shows how many of a number are done: one line written over in a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what, self._quiet, self._terminal = what, quiet, sys.stderr.isatty()
        self._started = self._last = time.monotonic()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._quiet or now - self._last < (_MOMENT_S if self._terminal else _LINE_S):
            return
        self._last, self._shown = now, True
        left_s = (now - self._started) / done * (total - done)
        text = f"{self._what}: {done} of {total}, {now - self._started:.0f} s, {left_s:.0f} s left"
        print(
            f"\r\x1b[K{text}" if self._terminal else text,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        """Remove the line of a terminal."""
        if self._shown and self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
