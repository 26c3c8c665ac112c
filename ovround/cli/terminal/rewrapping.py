"""What a narrower window leaves of the editor: rows that the terminal has wrapped again, above where the editor begins anew.

prompt_toolkit goes up by as many rows as it has drawn. A terminal that wraps lines again has more of them by then. One that cuts
lines has not, and there the rows above are the conversation. So only where the terminal is known to wrap is more removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_toolkit.application import Application

_VARIABLES = (
    "TMUX",
    "VTE_VERSION",
    "KITTY_WINDOW_ID",
    "ALACRITTY_WINDOW_ID",
    "WEZTERM_PANE",
    "WT_SESSION",
    "ITERM_SESSION_ID",
)
_INNER = ("TMUX", "STY")  # tmux and GNU screen, which cuts: the one within decides, whatever is around it


def wraps_again(environment: Mapping[str, str]) -> bool:
    """Whether the terminal is known to wrap the lines on its screen again when its width changes."""
    inner = [name for name in _INNER if environment.get(name)]
    if inner:
        return inner[0] == "TMUX"
    return any(environment.get(name) for name in _VARIABLES)


def rows_added(rows: Iterable[Iterable[int]], columns: int) -> int:
    """Rows that lines of one row each take more in a window of so many columns; a line is the widths of its characters."""
    added = 0
    for widths in rows:
        at = 0
        for width in widths:
            if at + width > columns:
                added, at = added + 1, 0
            at += width
    return added


class Rewrapping:
    """Watches an editor, and removes what is left above it when its window becomes narrower."""

    def __init__(self, editor: Application[Any]) -> None:
        self._editor = editor
        self._columns = 0  # of what is drawn; 0: nothing is
        self._rows: list[list[int]] = []  # the widths of its characters, up to the cursor
        if wraps_again(os.environ):
            editor.before_render += self._remove
            editor.after_render += self._remember

    def begin(self) -> None:
        """A new message: nothing of it is drawn."""
        self._columns = 0

    def _remember(self, editor: Application[Any]) -> None:
        screen = editor.renderer.last_rendered_screen
        if screen is None:
            self._columns = 0
            return
        cursor = screen.get_cursor_position(editor.layout.current_window)
        self._columns, self._rows = editor.output.get_size().columns, []
        for number in range(cursor.y + 1):
            row = screen.data_buffer[number]
            last = max((place for place, cell in row.items() if cell.char.strip()), default=-1)
            end = min(last, cursor.x if number == cursor.y else last) + 1  # behind the last character nothing wraps
            self._rows.append([row[place].width for place in range(end)])

    def _remove(self, editor: Application[Any]) -> None:
        columns, before = editor.output.get_size().columns, self._columns
        self._columns = 0
        if before <= columns:
            return
        for _ in range(rows_added(self._rows, columns)):  # row by row: tmux keeps a whole screen that is erased at once
            editor.output.cursor_up(1)
            editor.output.erase_end_of_line()
