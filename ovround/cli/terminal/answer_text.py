"""An answer as it grows: text is only ever appended, so each line stands once in the scrollback of a terminal."""

from __future__ import annotations

import re
import sys

# All control characters but tab and line feed. A model's answer must not move the cursor, clear the screen or name the window.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    r"""`text` with its control characters written out, as `\x1b`; line ends of two characters become one."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\r\n", "\n"))


class AnswerText:
    """Writes the pieces of one answer to stdout: to a terminal with control characters written out, elsewhere unchanged."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._held = ""  # a carriage return, until it is known whether a line feed follows

    def write(self, text: str) -> None:
        """Append `text`, and show it at once."""
        if self._terminal:
            text = self._held + text
            self._held = "\r" if text.endswith("\r") else ""
            text = visible(text.removesuffix("\r") if self._held else text)
        sys.stdout.write(text)
        sys.stdout.flush()

    def end(self) -> None:
        """End the last line."""
        held, self._held = self._held, ""
        sys.stdout.write(f"{visible(held)}\n")
        sys.stdout.flush()
