"""`ovround chat` without a terminal: its commands, files and history, and what it does over a pipe."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from command_server import CommandServer, succeeded
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from ovround.cli.terminal.answer_text import AnswerText, visible
from ovround.cli.terminal.chat_commands import Outcome, commands, help_text, run_command
from ovround.cli.terminal.conversation import Conversation, Message, load, save
from ovround.cli.terminal.line_editor import LineEditor
from ovround.cli.terminal.message_history import MessageHistory, history_file
from ovround.errors import OvroundError, UsageError


def accept(messages: Sequence[Message]) -> None:
    """A template that refuses nothing."""


COMMANDS = commands(accept)


class Screen(io.StringIO):
    """A terminal as stdout."""

    def isatty(self) -> bool:
        return True


def talked() -> Conversation:
    conversation = Conversation("Be brief.")
    for said, answered in (("one", "1"), ("two", "2")):
        conversation.say(said)
        conversation.answered(answered)
    return conversation


# Answers


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\r\nb\rc\x7f\x9b1m", "a\nb\\x0dc\\x7f\\x9b1m"),
        ("你好 🙂 \u200d é", "你好 🙂 \u200d é"),
    ],
)
def test_control_characters_of_an_answer_are_written_out(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert visible(text) == shown
    for size in (1, 2, len(text)):
        monkeypatch.setattr(sys, "stdout", Screen())
        answer = AnswerText()
        for start in range(0, len(text), size):
            answer.write(text[start : start + size])
        answer.end()
        assert sys.stdout.getvalue() == f"{shown}\n"  # type: ignore[attr-defined]


def test_a_file_gets_the_answer_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    answer = AnswerText()
    answer.write("\x1b[2J\r")
    answer.end()
    assert sys.stdout.getvalue() == "\x1b[2J\r\n"  # type: ignore[attr-defined]


# Commands


@pytest.mark.parametrize("line", ["Hello", "/usr/bin is what?", "//", "/", " /help", "/Help", "/1", "a /help"])
def test_a_line_that_is_a_message(line: str) -> None:
    assert run_command(COMMANDS, Conversation(None), line) is None


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("/regen", "did you mean /regenerate?"),
        ("/re", "did you mean /reset or /regenerate?"),
        ("/sytem", "did you mean /system?"),
        ("/bye", "did you mean /exit?"),
        ("/clear now", "did you mean /reset?"),
        ("/frobnicate", "`/frobnicate` is no command"),
    ],
)
def test_an_unknown_command_names_what_is_near_and_all_that_there_are(line: str, near: str) -> None:
    with pytest.raises(UsageError) as refused:
        run_command(COMMANDS, Conversation(None), line)
    assert str(refused.value).endswith(near)
    assert all(name in str(refused.value.hint) for name in COMMANDS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/save", "/save needs the name of a file"),
        ("/load", "/load needs the name of a file"),
        ("/save chat.json", "there is no message yet"),
        ("/edit", "there is no message yet"),
        ("/regenerate", "there is no message yet"),
        ("/exit now", "/exit takes no text, yet has `now`"),
        ("/load nowhere.json", "`nowhere.json` cannot be read: No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_done(line: str, words: str) -> None:
    conversation = Conversation("Be brief.")
    with pytest.raises(UsageError, match=words):
        run_command(COMMANDS, conversation, line)
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]


def test_help_lists_every_command_and_fits_a_window(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(COMMANDS, Conversation(None), "/help")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"{help_text(COMMANDS)}\n")
    assert [line.split()[0] for line in shown.err.splitlines() if line.startswith("/")] == list(COMMANDS)
    assert max(map(len, shown.err.splitlines())) <= 120


def test_what_commands_do_to_the_conversation() -> None:
    conversation = talked()
    assert run_command(COMMANDS, conversation, "/regenerate") == Outcome(answer=True, repeats=True)
    assert [message["content"] for message in conversation.messages] == ["Be brief.", "one", "1", "two"]
    assert run_command(COMMANDS, conversation, "/regenerate") == Outcome(answer=True)
    conversation.answered("2")
    assert run_command(COMMANDS, conversation, "/edit") == Outcome(draft="two")
    assert run_command(COMMANDS, conversation, "/edit three\nlines") == Outcome(answer=True)
    assert [message["content"] for message in conversation.messages] == ["Be brief.", "one", "1", "three\nlines"]
    assert run_command(COMMANDS, conversation, "/reset") == Outcome()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert run_command(COMMANDS, conversation, "/system Be long.") == Outcome()
    assert conversation.system_prompt == "Be long."
    assert run_command(COMMANDS, conversation, "/system") == Outcome()
    assert conversation.messages == []
    assert run_command(COMMANDS, conversation, "/exit") == Outcome(ends=True)


def test_messages_that_the_template_refuses_change_nothing(tmp_path: Path) -> None:
    def refuse(messages: Sequence[Message]) -> None:
        raise OvroundError("no")

    conversation = talked()
    before = list(conversation.messages)
    save(before, str(tmp_path / "chat.json"))
    for line in ("/system Be long.", f"/load {tmp_path / 'chat.json'}"):
        with pytest.raises(OvroundError, match="no"):
            run_command(commands(refuse), conversation, line)
        assert conversation.messages == before


# Files


def test_a_chat_is_saved_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    conversation = talked()
    for _ in range(2):  # a chat replaces an older one
        run_command(COMMANDS, conversation, "/save ~/chat.json")
    assert json.loads((tmp_path / "chat.json").read_text()) == {"messages": conversation.messages}
    assert list(tmp_path.iterdir()) == [tmp_path / "chat.json"]
    other = Conversation(None)
    assert run_command(COMMANDS, other, "/load ~/chat.json") == Outcome()
    assert other.messages == conversation.messages
    (tmp_path / "list.json").write_text('[{"role": "user", "content": "hello", "name": "A"}]')
    assert run_command(COMMANDS, other, f"/load {tmp_path / 'list.json'}") == Outcome(answer=True)
    assert other.messages == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ('{"messages": []}', "holds no messages"),
        ('"hello"', "holds no messages"),
        ('[{"role": "user"}]', "message 1 of `.*` has the content None"),
        ('[{"role": "user", "content": "a"}, 7]', "message 2 of `.*` is no object"),
        ('[{"role": 1, "content": "a"}]', "has the role 1; a text is needed"),
    ],
)
def test_a_file_that_holds_no_chat_is_neither_loaded_nor_replaced(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        load(str(path))
    with pytest.raises(UsageError, match="exists and holds no chat"):
        save(talked().messages, str(path))
    assert path.read_text() == text


# History


def test_history_is_kept_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = history_file()
    assert path == tmp_path / "state" / "ovround" / "chat-history"
    history = MessageHistory(path)
    for message in ("one", "two\nlines", "two\nlines", "drei ü"):
        history.append_string(message)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    assert MessageHistory(path).load_history_strings() == ["drei ü", "two\nlines", "one"]
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".local" / "state" / "ovround" / "chat-history"


def test_a_long_history_is_shortened(tmp_path: Path) -> None:
    path = tmp_path / "chat-history"
    path.write_text("".join(f"\n# 2026-12-01\n+message {number} {'x' * 990}\n" for number in range(1200)))
    assert path.stat().st_size > 1 << 20
    kept = list(MessageHistory(path).load_history_strings())
    assert (len(kept), kept[0].split()[1], kept[-1].split()[1]) == (1000, "1199", "200")
    assert path.stat().st_size < 1 << 20
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_history_that_cannot_be_kept_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    history = MessageHistory(tmp_path / "file" / "chat-history")
    history.append_string("one")
    assert history.get_strings() == ["one"]
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: `")
    assert "cannot be written, so messages are not kept: " in warning


# The line editor


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], LineEditor]]:
    """A line editor in front of which a user presses keys."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):

        def pressed(text: str) -> LineEditor:
            monkeypatch.setattr(sys, "stdout", Screen())
            pipe.send_text(text)
            return LineEditor(list(COMMANDS))

        yield pressed


@pytest.mark.parametrize(
    ("pressed", "messages"),
    [
        ("Hello\r\x04", ["Hello", None]),
        ("\r  \rHello\r\x04", ["Hello", None]),
        ("\x1b[200~one\ntwo\r\nthree\x1b[201~ four\r\x04", ["one\ntwo\nthree four", None]),
        ("one\x1b\rtwo\r\x04", ["one\ntwo", None]),
        ("/hel\t\r\x04", ["/help", None]),
        ("\x03\x03", [None]),
        ("abc\x03\x03\x03", [None]),
        ("\x03abc\r\x03\x04", ["abc", None]),
        ("你好🙂\x1b[D\x7f\r\x04", ["你🙂", None]),
    ],
)
def test_keys(keys: Callable[[str], LineEditor], pressed: str, messages: list[str | None]) -> None:
    editor = keys(pressed)
    assert [editor.read() for _ in messages] == messages


def test_a_draft_is_edited_and_kept(keys: Callable[[str], LineEditor], capsys: pytest.CaptureFixture[str]) -> None:
    assert keys("\x7f!\r").read("Hello?") == "Hello!"
    assert MessageHistory(history_file()).load_history_strings() == ["Hello!"]
    assert keys("\x03\x03\x03").read("Hello?") is None  # the first clears the draft
    assert capsys.readouterr().err == "Ctrl-C once more ends the chat\n"


# Over a pipe


def test_a_pipe_gets_the_answers_and_nothing_else(
    demo_folders: dict[str, Path], loaded_command: CommandServer, tmp_path: Path
) -> None:
    options = ("--max-new-tokens", "8", "--exact")
    lines = (
        "What is a list?", "/save one.json", "", "/regenerate", "/edit And a dict?", " /help me", "/save two.json",
        "/load one.json", "/reset", "/load two.json", "/edit /help me", "/exit", "never answered",
    )  # fmt: skip
    result = loaded_command(
        "chat", demo_folders["onnx"], *options, cwd=tmp_path, stdin="\n".join(lines),
        environment={"XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    out = succeeded(result)
    chat = json.loads((tmp_path / "two.json").read_text())["messages"]
    assert [message["content"] for message in chat if message["role"] == "user"] == ["And a dict?", "/help me"]
    (first,) = (m["content"] for m in json.loads((tmp_path / "one.json").read_text())["messages"][1:])
    assert out == "".join(
        f"{text}\n" for text in (first, first, chat[1]["content"], chat[3]["content"], chat[3]["content"])
    )
    assert "the same answer comes again" in result.stderr
    assert not (tmp_path / "state").exists()
    assert "prompt_toolkit" not in result.modules
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [("a\n/edit\n", "/edit needs the new message"), ("/bye\n", "did you mean /exit?"), ("/load x\n", "cannot be read")],
)
def test_a_mistake_over_a_pipe_ends_the_chat(
    demo_folders: dict[str, Path], loaded_command: CommandServer, lines: str, words: str
) -> None:
    result = loaded_command("chat", demo_folders["onnx"], "--max-new-tokens", "1", stdin=f"{lines}never answered\n")
    assert result.status == 2
    assert words in result.stderr
    assert "never answered" not in result.stdout + result.stderr
