"""A message that is edited while the window becomes narrower: nothing of it is left behind, and nothing above it is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tmux_terminal import TmuxTerminal

from ovround.cli.terminal.rewrapping import rows_added, wraps_again

EDITOR = """
from ovround.cli.terminal.line_editor import LineEditor
for number in range(30):
    print("line", number, "of an answer")
editor = LineEditor([])
while (text := editor.read()) is not None:
    print("read", len(text))
"""
WIDE, NARROW = 80, 40
WORDS = " ".join(f"word{number}" for number in range(30))


def test_rows_that_are_added() -> None:
    assert rows_added([[1] * 80, [1] * 80, [1] * 46], 40) == 3
    assert rows_added([[1] * 40], 40) == 0
    assert rows_added([[2] * 40], 39) == 2  # 19 characters of two columns fit
    assert rows_added([[2, 0] * 40], 39) == 2  # prompt_toolkit has an empty cell behind each of them
    assert rows_added([], 10) == 0


@pytest.mark.parametrize(
    ("environment", "wraps"),
    [
        ({"TMUX": "default,1,0", "STY": "1.screen"}, True), ({"STY": "1.screen", "VTE_VERSION": "7000"}, False),
        ({"VTE_VERSION": "7000"}, True), ({"TERM": "xterm-256color", "XTERM_VERSION": "XTerm(390)"}, False), ({}, False),
    ],
)  # fmt: skip
def test_terminals_that_are_known_to_wrap(environment: dict[str, str], wraps: bool) -> None:
    assert wraps_again(environment) == wraps


def test_no_row_is_left_behind_and_none_is_lost(tmp_path: Path) -> None:
    command, state = (sys.executable, "-c", EDITOR), {"XDG_STATE_HOME": str(tmp_path / "state")}
    said = "\n".join(f"line {number} of an answer" for number in range(30))
    with TmuxTerminal(tmp_path, command, columns=WIDE, rows=20, environment=state) as terminal:
        for message, left in ((WORDS, 0), (WORDS, 90), ("x" * (NARROW - 2), 0), ("x" * (WIDE - 2), 0)):
            terminal.wait(lambda text, said=said: text == f"{said}\n>")  # type: ignore[misc]
            terminal.type(message)
            for _ in range(left):
                terminal.press("Left")
            terminal.wait_for(message[-20:])
            terminal.resize(NARROW, 20)
            rows = [message[at : at + NARROW - 2] for at in range(0, len(message), NARROW - 2)]
            last = f"{' ' if len(rows) > 1 else '>'} {rows[-1]}"
            terminal.wait(lambda text, last=last: text.endswith(last))  # type: ignore[misc]
            terminal.press("Enter")
            said += f"\n> {message}\nread {len(message)}"
            terminal.wait(lambda text, said=said: text == f"{said}\n>")  # type: ignore[misc]
            terminal.resize(WIDE, 20)
        terminal.press("C-d")
        text = terminal.wait_for("ENDED 0")
        assert text.partition("\nENDED 0")[0] == f"{said}\n>"
