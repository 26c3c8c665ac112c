"""A real terminal for tests: a command in a window of tmux, by what its screen and its scrollback hold."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pytest

_NUMBERS = itertools.count()
_WAIT_S = 120  # a limit of what hangs: the machine may be busy


class TmuxTerminal:
    """A context manager; the terminal has a server of its own, which ends with it."""

    def __init__(
        self, folder: Path, command: Sequence[object], *, columns: int = 80, rows: int = 8,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Skips the test where there is no tmux. `ENDED STATUS` is written when the command has ended."""
        program = shutil.which("tmux")
        if program is None:
            pytest.skip("no tmux")
        socket = folder / f"tmux{next(_NUMBERS)}"  # a server that is ending still answers on its own
        self._tmux = [program, "-S", str(socket), "-f", os.devnull]
        words = shlex.join(map(str, command))
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items())
        shell = f"cd {shlex.quote(str(folder))}; env {settings} {words}; echo ENDED $?; stty -a; exec sleep 1000"
        size = ("-x", str(columns), "-y", str(rows))
        options = {name: value for name, value in os.environ.items() if name != "TMUX"}
        self._environment = {**options, "LC_ALL": "C.UTF-8"}
        self._run("start-server", ";", "set", "-g", "history-limit", "20000", ";", "new-session", "-d", *size, shell)

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], capture_output=True, text=True, check=True, env=self._environment, encoding="utf-8"
        )
        return done.stdout

    def __enter__(self) -> TmuxTerminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("kill-server")

    def text(self) -> str:
        """Scrollback and screen; a line that the terminal wrapped is one line."""
        return "\n".join(
            line.rstrip() for line in self._run("capture-pane", "-p", "-J", "-S", "-").splitlines()
        ).rstrip()

    def type(self, text: str) -> None:
        """Press the keys of `text`."""
        self._run("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: Enter, C-c, Up."""
        self._run("send-keys", *keys)

    def say(self, text: str) -> None:
        """Type a line and end it."""
        self.type(text)
        self.press("Enter")

    def paste(self, text: str) -> None:
        """Paste as a terminal does, in brackets where the program asked for them."""
        self._run("set-buffer", text)
        self._run("paste-buffer", "-p")

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def wait(self, holds: Callable[[str], bool]) -> str:
        """The text as soon as `holds` is true of it."""
        end = time.monotonic() + _WAIT_S
        while not holds(text := self.text()):
            assert time.monotonic() < end, text
            time.sleep(0.05)
        return text

    def wait_for(self, words: str, times: int = 1) -> str:
        """The text as soon as it has `words` so many times."""
        return self.wait(lambda text: text.count(words) >= times)
