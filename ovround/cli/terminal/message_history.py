"""The messages of earlier chats, which the arrow keys recall: a file that only its owner reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from prompt_toolkit.history import FileHistory

_MOST_ENTRIES = 1000
_TRIM_BYTES = 1 << 20  # the file is shortened to _MOST_ENTRIES when a chat begins with more than this


def history_file() -> Path:
    """`chat-history` in `$XDG_STATE_HOME/ovround`, else in `~/.local/state/ovround`; it need not exist."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "ovround" / "chat-history"


class MessageHistory(FileHistory):
    """A file that cannot be read or written costs the history, not the chat."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            path.chmod(0o600)
            self._writable = True
            self._trim()
        except OSError as error:
            self._give_up(error)

    def load_history_strings(self) -> Iterable[str]:
        """Messages, the newest first."""
        try:
            return list(islice(super().load_history_strings(), _MOST_ENTRIES))
        except OSError:
            return []

    def append_string(self, string: str) -> None:
        """Keep a message, unless it repeats the last one."""
        if self.get_strings()[-1:] != [string]:
            super().append_string(string)

    def store_string(self, string: str) -> None:
        if self._writable:
            try:
                super().store_string(string)
            except OSError as error:
                self._give_up(error)

    def _trim(self) -> None:
        if self._path.stat().st_size <= _TRIM_BYTES:
            return
        newest = list(self.load_history_strings())
        scratch = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        try:
            os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            kept = FileHistory(scratch)
            for message in reversed(newest):
                kept.store_string(message)
            scratch.replace(self._path)
        finally:
            scratch.unlink(missing_ok=True)

    def _give_up(self, error: OSError) -> None:
        self._writable = False
        print(f"warning: `{self._path}` cannot be written, so messages are not kept: {error.strerror}", file=sys.stderr)
