"""The messages of a chat: what they are, how they are written to a file and read from one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovround.artifact.output_folder import write_atomically
from ovround.errors import UsageError
from ovround.limits import LIMITS
from ovround.record import load_json

Message = dict[str, Any]


class Conversation:
    """Messages with `role` and `content`; the first is the system message where there is one."""

    def __init__(self, system_prompt: str | None) -> None:
        self.messages: list[Message] = []
        self.reset(system_prompt)

    @property
    def system_prompt(self) -> str | None:
        """The text of the system message."""
        first = self.messages[0] if self.messages else None
        return first["content"] if first is not None and first["role"] == "system" else None

    @property
    def awaits_answer(self) -> bool:
        """Whether the last message is the user's."""
        return bool(self.messages) and self.messages[-1]["role"] == "user"

    def reset(self, system_prompt: str | None) -> None:
        """Start over with this system message alone."""
        self.messages = [{"role": "system", "content": system_prompt}] if system_prompt else []

    def say(self, text: str) -> None:
        """Append the user's message."""
        self.messages.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        """Append the model's message."""
        self.messages.append({"role": "assistant", "content": text})

    def take_back_answer(self) -> None:
        """Remove what follows the user's last message; UsageError where there is no message."""
        self.messages = self.messages[: self._last_said() + 1]

    def last_said(self) -> str:
        """The user's last message; UsageError where there is none."""
        text: str = self.messages[self._last_said()]["content"]
        return text

    def say_instead(self, text: str) -> None:
        """Replace the user's last message, and remove what follows it."""
        self.messages = self.messages[: self._last_said()]
        self.say(text)

    def _last_said(self) -> int:
        places = [place for place, message in enumerate(self.messages) if message["role"] == "user"]
        if not places:
            raise UsageError("there is no message yet")
        return places[-1]


def save(messages: Sequence[Message], name: str) -> Path:
    """Write a chat as JSON, whole or not at all; a file that holds no chat is not replaced. Raises UsageError."""
    path = Path(name).expanduser()
    try:
        if path.exists() and not _is_chat(path):
            raise UsageError(f"`{name}` exists and holds no chat", hint="choose another name")
        text = json.dumps({"messages": list(messages)}, ensure_ascii=False, indent=2)
        write_atomically(path, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UsageError(f"`{name}` cannot be written: {error.strerror}") from error
    return path


def load(name: str) -> list[Message]:
    """The messages that `save` wrote, or a list of them, as OpenAI's API takes; UsageError names what does not fit."""
    try:
        document = load_json(Path(name).expanduser(), LIMITS.json_bytes)
    except OSError as error:
        raise UsageError(f"`{name}` cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"`{name}` cannot be read as JSON: {error}") from error
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list) or not messages:
        raise UsageError(
            f"`{name}` holds no messages", hint='a chat is {"messages": [{"role": "user", "content": "..."}]}'
        )
    return [_checked(message, f"message {number} of `{name}`") for number, message in enumerate(messages, 1)]


def _is_chat(path: Path) -> bool:
    try:
        load(str(path))
    except UsageError:
        return False
    return True


def _checked(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise UsageError(f"{where} is no object")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise UsageError(f"{where} has the {key} {message.get(key)!r:.40}; a text is needed")
    return {"role": message["role"], "content": message["content"]}
