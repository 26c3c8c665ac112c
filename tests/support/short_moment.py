"""Imported by a process of the command line: every moment is a long one, so each command says what it does."""

from __future__ import annotations

from threading import Timer

from ovround.cli import working


class AtOnce(Timer):
    """A timer whose time has come when it is started."""

    def start(self) -> None:
        self.function(*self.args, **self.kwargs)

    def join(self, timeout: float | None = None) -> None:
        """It has ended."""


working.Timer = AtOnce  # type: ignore[misc]
