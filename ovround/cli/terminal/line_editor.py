"""Where messages come from: an editor in a terminal, or a pipe with one message a line.

prompt_toolkit edits: it takes a pasted text as one message, knows the width of every character, and behaves alike on all
systems. It is imported in a terminal only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ovround.cli.terminal.answer_text import visible

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.layout.dimension import Dimension

_PROMPT, _INDENT = "> ", "  "
_LEAVING = "Ctrl-C once more ends the chat"
_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"


class MessageReader(Protocol):
    """The source of messages."""

    def read(self, draft: str = "") -> str | None:
        """The next text that is not blank, `draft` as edited where there is one; None at the end."""


class PipeReader:
    """One message a line of stdin."""

    def read(self, draft: str = "") -> str | None:
        for line in sys.stdin:
            if line.strip():
                return line.rstrip("\r\n")
        return None


class LineEditor:
    """A line editor with history, completion of `commands`, and messages of several lines by paste or Alt-Enter."""

    def __init__(self, commands: Sequence[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import History, InMemoryHistory
        from prompt_toolkit.output import create_output
        from prompt_toolkit.shortcuts import CompleteStyle
        from prompt_toolkit.utils import is_dumb_terminal

        from ovround.cli.terminal.message_history import MessageHistory, history_file
        from ovround.cli.terminal.rewrapping import Rewrapping

        try:
            history: History = MessageHistory(history_file())
        except RuntimeError:  # a user without a home
            history = InMemoryHistory()
        self._session: PromptSession[str] = PromptSession(
            _PROMPT,
            history=history,
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,  # a menu would need eight rows
            key_bindings=_bindings(),
            enable_suspend=True,
            prompt_continuation=_INDENT,
            erase_when_done=True,  # the editor shows as many lines as the window has: `_keep` writes all of them
            output=None if sys.stdout.isatty() else create_output(stdout=sys.stderr),  # a file gets answers only
        )

        self._session.layout.current_window.height = self._most_rows
        self._rewrapping = Rewrapping(self._session.app)
        self._dumb = is_dumb_terminal()  # where nothing can be erased

    def read(self, draft: str = "") -> str | None:
        leaving = False
        while True:
            self._rewrapping.begin()
            try:
                text = self._session.prompt(default=draft)
            except EOFError:
                self._keep("")
                return None
            except KeyboardInterrupt:
                self._keep(self._session.default_buffer.text)
                empty = not self._session.default_buffer.text
                if leaving and empty:
                    return None
                leaving = empty
                if empty:
                    print(_LEAVING, file=sys.stderr)
                draft = ""
                continue
            self._keep(text)
            if text.strip():
                return text
            leaving, draft = False, ""

    def _most_rows(self) -> Dimension:
        """One row less than the window: tmux keeps what is erased in its scrollback where that is the whole screen."""
        from prompt_toolkit.layout.dimension import Dimension

        return Dimension(max=max(1, self._session.output.get_size().rows - 1))

    def _keep(self, text: str) -> None:
        """Leave the message in the scrollback, whole and once."""
        if self._dumb:
            return
        shown = visible(text).replace("\n", f"\n{_INDENT}")
        print(f"{_PROMPT}{shown}".rstrip(), file=sys.stdout if sys.stdout.isatty() else sys.stderr, flush=True)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Keys that are pressed meanwhile are not shown among the answer, and a text that is pasted stays one message."""
        try:
            import termios
        except ImportError:  # on Windows
            yield
            return
        stdin = sys.stdin.fileno()
        before = termios.tcgetattr(stdin)
        silent = termios.tcgetattr(stdin)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(stdin, termios.TCSANOW, silent)
        print(_PASTE_ON, end="", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            print(_PASTE_OFF, end="", file=sys.stderr, flush=True)
            termios.tcsetattr(stdin, termios.TCSANOW, before)


def _bindings() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
