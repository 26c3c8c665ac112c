"""The lines of a chat that begin with a slash: `/save FILE` and the like."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovround.cli.terminal import conversation as chats
from ovround.cli.terminal.answer_text import visible
from ovround.errors import UsageError

if TYPE_CHECKING:
    from ovround.cli.terminal.conversation import Conversation, Message

_COMMAND = re.compile(r"(/[a-z?]+)(?:\s+(.*))?", re.DOTALL)
_ELSEWHERE = {  # what other programs call it
    "/quit": "/exit", "/bye": "/exit", "/q": "/exit", "/clear": "/reset", "/new": "/reset", "/retry": "/regenerate",
    "/undo": "/edit", "/read": "/load", "/show": "/history", "/?": "/help",
}  # fmt: skip
_KEYS = """\
Tab completes a command, the arrow keys recall messages, Alt-Enter begins a new line. A pasted text is one message.
Ctrl-C ends an answer; at an empty prompt it asks before it ends the chat. A space before a slash makes it a message."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a chat does next.

    `answer`: the model answers. `repeats`: it answers the same messages as before. `draft`: the user edits this text, which
    then replaces the last message. `ends`: nothing more.
    """

    answer: bool = False
    repeats: bool = False
    draft: str | None = None
    ends: bool = False


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """One command; `argument` is its name in the help, empty without one. `run` gets the argument's text."""

    argument: str
    effect: str
    run: Callable[[Conversation, str], Outcome]
    needs_argument: bool = False


Check = Callable[[Sequence["Message"]], None]


def commands(check: Check) -> dict[str, ChatCommand]:
    """The commands by name, as help lists them. `check` raises OvroundError for messages that the model cannot read."""

    def restart(conversation: Conversation, text: str) -> Outcome:
        if text:
            check([{"role": "system", "content": text}, {"role": "user", "content": ""}])
        conversation.reset(text or None)
        return _done(f"a new chat, with {'this' if text else 'no'} system message")

    def reset(conversation: Conversation, text: str) -> Outcome:
        conversation.reset(conversation.system_prompt)
        return _done("a new chat")

    def load(conversation: Conversation, name: str) -> Outcome:
        messages = chats.load(name)
        check(messages)
        conversation.messages = messages
        count = len(messages)
        return _done(f"loaded: {name}, {count} message{'s' * (count > 1)}", answer=conversation.awaits_answer)

    return {
        "/reset": ChatCommand("", "start over", reset),
        "/system": ChatCommand("[TEXT]", "start over with another system message; without a text, with none", restart),
        "/regenerate": ChatCommand("", "answer the last message again", _regenerate),
        "/edit": ChatCommand("[TEXT]", "change the last message, and answer it", _edit),
        "/history": ChatCommand("", "show the conversation", _history),
        "/save": ChatCommand("FILE", "write the conversation as JSON", _save, needs_argument=True),
        "/load": ChatCommand("FILE", "continue a conversation that was saved", load, needs_argument=True),
        "/help": ChatCommand("", "show this list", lambda conversation, text: _done(help_text(commands(check)))),
        "/exit": ChatCommand(
            "", "end, as the end of input (Ctrl-D) does", lambda conversation, text: Outcome(ends=True)
        ),
    }


def help_text(known: dict[str, ChatCommand]) -> str:
    """The list of commands, for a window of any width."""
    names = [f"{name} {command.argument}".rstrip() for name, command in known.items()]
    width = max(map(len, names))
    lines = [f"{name.ljust(width)}  {command.effect}" for name, command in zip(names, known.values(), strict=True)]
    return "\n".join([*lines, _KEYS])


def run_command(known: dict[str, ChatCommand], conversation: Conversation, line: str) -> Outcome | None:
    """Do what `line` says; None where it is a message. Raises UsageError when it is no command, or cannot be done."""
    match = _COMMAND.fullmatch(line)
    if match is None:
        return None
    name, text = match[1], (match[2] or "").strip()
    if name not in known:
        raise UsageError(
            _unknown(name, list(known)), hint=f"the commands: {', '.join(known)}; a space before it makes a message"
        )
    command = known[name]
    if text and not command.argument:
        raise UsageError(f"{name} takes no text, yet has `{text:.40}`", hint="a space before it makes a message")
    if command.needs_argument and not text:
        raise UsageError(f"{name} needs the name of a file", hint=f"{name} chat.json")
    return command.run(conversation, text)


def _unknown(name: str, known: Sequence[str]) -> str:
    longer = [other for other in known if other.startswith(name)]
    near = [_ELSEWHERE[name]] if name in _ELSEWHERE else longer or difflib.get_close_matches(name, known, 2)
    return f"`{name}` is no command" + (f"; did you mean {' or '.join(near)}?" if near else "")


def _done(message: str, *, answer: bool = False) -> Outcome:
    print(message, file=sys.stderr)
    return Outcome(answer=answer)


def _regenerate(conversation: Conversation, text: str) -> Outcome:
    repeats = not conversation.awaits_answer
    conversation.take_back_answer()
    return Outcome(answer=True, repeats=repeats)


def _edit(conversation: Conversation, text: str) -> Outcome:
    said = conversation.last_said()
    if not text:
        return Outcome(draft=said)
    conversation.say_instead(text)
    return Outcome(answer=True)


def _history(conversation: Conversation, text: str) -> Outcome:
    shown = visible if sys.stdout.isatty() else str
    for message in conversation.messages:
        sys.stdout.write(f"[{message['role']}] {shown(message['content'])}\n")
    sys.stdout.flush()
    return Outcome()


def _save(conversation: Conversation, name: str) -> Outcome:
    conversation.last_said()
    chats.save(conversation.messages, name)
    return _done(f"saved: {name}")
