"""What a command does, on stderr: nothing for a second, then a line that a terminal shows until it is done and a pipe keeps."""

from __future__ import annotations

import os
import sys
import time
from threading import RLock, Timer
from types import TracebackType

from ovround.cli.terminal.answer_text import visible

_MOMENT_S = 1.0
_LINE_S = 10.0  # between two lines where they are not written over each other
_ERASE = "\r\x1b[K"
_COLUMNS = 80  # of what has no window

_lock = RLock()
_shown = ""  # the line without an end that a terminal shows now; there is one stderr


def say(text: str) -> None:
    """Write a line that stays, above the one that a terminal shows now."""
    with _lock:
        print(f"{_ERASE if _shown else ''}{text}\n{_shown}", end="", file=sys.stderr, flush=True)


def _show(text: str, *, terminal: bool) -> None:
    """Show a line in place of the one before; on a pipe after it."""
    global _shown
    with _lock:
        if not terminal:
            print(text, file=sys.stderr, flush=True)
            return
        erase, _shown = _ERASE if _shown else "", text[: _columns() - 1]  # of two rows one would be left
        print(f"{erase}{_shown}", end="", file=sys.stderr, flush=True)


def _hide() -> None:
    """Remove the line of a terminal."""
    global _shown
    with _lock:
        if _shown:
            print(_ERASE, end="", file=sys.stderr, flush=True)
        _shown = ""


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


class Working:
    """A context manager around what may take long: `what` is shown once it does, and `begin` says what follows."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what, self._quiet, self._terminal = what, quiet, sys.stderr.isatty()
        self._timer: Timer | None = None
        self._first: tuple[int, float] | None = None  # what was counted first, and when
        self._last = time.monotonic()

    def __enter__(self) -> Working:
        self.begin(self._what)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self, what: str) -> None:
        """Another thing is done from now on."""
        self.end()
        if self._quiet:
            return
        self._timer = Timer(_MOMENT_S, _show, (visible(what),), {"terminal": self._terminal})
        self._timer.daemon = True
        self._timer.start()

    def note(self, text: str) -> None:
        """A line that stays, whatever is done now."""
        if self._timer is not None:
            self.end()
        if not self._quiet:
            say(text)

    def count(self, what: str, done: int, total: int) -> None:
        """So many of a number are done; the time left is by those that were counted after the first call."""
        if self._timer is not None:
            self.end()
        now = time.monotonic()
        if self._first is None or done <= self._first[0]:
            self._first = (done, now)
        if self._quiet or now - self._last < (_MOMENT_S if self._terminal else _LINE_S):
            return
        self._last = now
        before, since = self._first
        left = f", {(now - since) / (done - before) * (total - done):.0f} s left" if done > before else ""
        _show(f"{what}: {done} of {total}{left}", terminal=self._terminal)

    def end(self) -> None:
        """Nothing is done that takes long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None
        _hide()
