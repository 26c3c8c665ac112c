"""Signals as exceptions, raised where the work is, so that unfinished output is removed; none is lost on the way.

An exception that comes between two instructions can meet code that drops it: Python prints and forgets what is raised in a
callback of the garbage collector, as each import has one, and libraries pass over an ImportError, which is what a native
module makes of anything that is raised while it is being loaded. An exception that is dropped is freed. Then its signal is
raised again.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from types import FrameType
from typing import NoReturn

_AGAIN_S = 0.02  # not at once: whatever drops an exception is still at work


class Signalled(BaseException):
    """A signal; no Exception, like KeyboardInterrupt. Ctrl-C too: Typer ends in silence at a KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        self.heard = False

    def __del__(self) -> None:
        if not self.heard and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: _raise(self.number, None))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def raise_signals(numbers: Iterable[signal.Signals]) -> None:
    """From now on each of these signals raises Signalled in the main thread."""
    for number in numbers:
        signal.signal(number, _raise)
    shown = sys.unraisablehook

    def hook(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, Signalled):
            shown(what)

    sys.unraisablehook = hook


def signalled(error: BaseException | None) -> Signalled | None:
    """The signal that `error` is or comes from, and that counts as heard from now on; None where there was none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, Signalled):
            error.heard = True
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Signalled(number)
