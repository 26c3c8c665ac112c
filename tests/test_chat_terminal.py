"""`ovround chat` in a real terminal of 80 by 8: what the screen and the scrollback hold."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from command_server import CommandServer, succeeded
from tmux_terminal import TmuxTerminal

from ovround.cli.terminal.answer_text import visible

pytestmark = pytest.mark.slow
LONG = (
    "--temperature",
    "50",
    "--seed",
    "1",
)  # as good as any token: it ends with the context, with control characters in it
QUESTION = "Write a long text."


def started(folder: Path, tmp_path: Path, *options: str) -> TmuxTerminal:
    """A chat in a terminal, before its first message."""
    command = (sys.executable, "-m", "ovround", "chat", folder, "--exact", *options)
    state = {"XDG_STATE_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}
    return TmuxTerminal(tmp_path, command, environment=state)


def saved(terminal: TmuxTerminal, tmp_path: Path, name: str) -> list[Any]:
    """The messages of the conversation."""
    terminal.say(f"/save {name}")
    terminal.wait_for(f"saved: {name}")
    messages: list[Any] = json.loads((tmp_path / name).read_text())["messages"]
    return messages


def signs(text: str) -> str:
    """What every terminal shows alike: no blanks, and nothing whose width is a question of the terminal's version."""
    return re.sub(r"[^!-~]", "", text)


def test_a_long_answer_stands_in_the_scrollback_once(
    demo_folders: dict[str, Path], loaded_command: CommandServer, tmp_path: Path
) -> None:
    folder = demo_folders["onnx"]
    answer = succeeded(loaded_command("chat", folder, "--exact", *LONG, stdin=f"{QUESTION}\n"))
    assert len(answer) > 3 * 80 * 8
    assert visible(answer) != answer
    with started(folder, tmp_path, *LONG) as terminal:
        first = terminal.wait_for("\n>").splitlines()
        assert first == [f"{folder} on {first[0].partition(' on ')[2]}", ">"]
        assert re.search(r" on ONNX Runtime \S+ CPU; /help lists the commands$", first[0])
        terminal.say(QUESTION)
        text = terminal.wait(lambda text: " tokens/s" in text and text.endswith(">"))
        shown, _, rest = text.partition(f"{first[0]}\n> {QUESTION}\n")[2].rpartition("\n489 tokens, first after ")
        assert signs(shown) == signs(visible(answer))
        assert rest.splitlines()[1:] == [">"]
        terminal.press("C-d")
        terminal.wait_for("ENDED 0")


def test_paste_interruption_and_leaving(demo_folders: dict[str, Path], tmp_path: Path) -> None:
    with started(demo_folders["onnx"], tmp_path, *LONG) as terminal:
        terminal.wait_for("\n>")
        pasted = "one\ntwo\n\n" + "\n".join(f"line {number}" for number in range(12))  # more than the window
        terminal.paste(pasted)
        terminal.press("Enter")
        text = terminal.wait_for(" tokens/s")
        assert [text.count(line) for line in ("> one\n", "  two\n", "line 0", "line 11")] == [1, 1, 1, 1]
        messages = saved(terminal, tmp_path, "pasted.json")
        assert [message["content"] for message in messages if message["role"] == "user"] == [pasted]
        terminal.say("/reset")
        terminal.wait_for("a new chat")
        terminal.say(QUESTION)
        terminal.wait(lambda text: len(text.rpartition(f"> {QUESTION}\n")[2]) > 20)
        terminal.paste("while\nit answers")  # into the prompt that comes
        terminal.wait_for("it answers")
        terminal.press("C-c")
        terminal.say("/reset")
        terminal.wait_for("a new chat", 2)
        terminal.say(QUESTION)
        terminal.wait_for(f"> {QUESTION}\n", 2)
        terminal.press("C-c")
        terminal.wait(lambda text: text.endswith(", stopped\n>"))
        terminal.type("你好 🙂🙂" * 12)
        terminal.press("BSpace")
        terminal.resize(40, 8)
        terminal.press("Enter")
        terminal.wait_for(" tokens/s", 4)
        messages = saved(terminal, tmp_path, "wide.json")
        assert [message["content"] for message in messages[-2:-1]] == [("你好 🙂🙂" * 12)[:-1]]
        terminal.say("/sav")
        terminal.wait_for("`/sav` is no command; did you mean /save?")
        terminal.press("C-c")
        terminal.wait_for("Ctrl-C once more ends the chat")
        terminal.press("C-c")
        text = terminal.wait_for("ENDED 0")
        settings = terminal.wait_for("echoke").partition("ENDED 0")[2]
        assert re.search(r"\bisig icanon iexten echo\b", settings)


def test_history_across_sessions_and_answers_that_would_move_the_cursor(
    demo_folders: dict[str, Path], tmp_path: Path
) -> None:
    evil = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "\x1b[2J\x1b]0;mine\x07\x1b[5Agone"}]
    (tmp_path / "evil.json").write_text(json.dumps(evil))
    with started(demo_folders["onnx"], tmp_path) as terminal:
        terminal.wait_for("\n>")
        terminal.say("How do I open a file?")
        terminal.wait_for(" tokens/s")
        terminal.say("/load evil.json")
        terminal.wait_for("loaded: evil.json, 2 messages")
        terminal.say("/history")
        text = terminal.wait_for("gone")
        assert "[user] hello\n[assistant] \\x1b[2J\\x1b]0;mine\\x07\\x1b[5Agone" in text
        assert text.splitlines()[1] == "> How do I open a file?"
        terminal.say("/exit")
        terminal.wait_for("ENDED 0")
    with started(demo_folders["onnx"], tmp_path) as terminal:
        terminal.wait_for("\n>")
        terminal.press("Up", "Up", "Up", "Up")
        terminal.wait_for("> How do I open a file?")
        terminal.press("Enter")
        terminal.wait_for(" tokens/s")
        assert len(saved(terminal, tmp_path, "recalled.json")) == 2
