"""What a record of a data set says: a text, or a chat, by the keys that training data of language models has.

A record that is not understood is refused with its keys. Nothing is taken for plain text because nothing better was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovround.errors import CalibrationError

Message = dict[str, Any]
_ROLES = {
    "system": "system", "developer": "developer", "user": "user", "human": "user", "prompter": "user", "customer": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "function_response": "tool", "observation": "tool", "ipython": "tool", "function": "tool",
}  # fmt: skip
_CHATS = ("messages", "conversations", "conversation", "chosen", "dialogue", "dialog", "turns")
# A question and its answer, each a text or a list of messages; further keys belong to the question.
_PAIRS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("instruction", "output", ("input", "context")), ("instruction", "response", ("input", "context")),
    ("prompt", "completion", ()), ("prompt", "response", ()), ("prompt", "output", ()), ("prompt", "chosen", ()),
    ("question", "answer", ()), ("question", "response", ()), ("query", "response", ()), ("query", "answer", ()),
    ("problem", "solution", ()), ("input", "output", ()),
)  # fmt: skip
_SYSTEMS = ("system", "system_prompt")
UNDERSTOOD = (
    "understood are `text`; `messages` or `conversations`, lists of role and content or from and value; "
    "`prompt` and `completion`; `instruction` and `output`; `question` and `answer`"
)


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages for a chat template, each with `role` and `content`; `variables` are the template's own, such as `tools`."""

    messages: Sequence[Message]
    variables: Mapping[str, Any] = field(default_factory=dict)


def meaning(record: object, where: str) -> str | Chat:
    """The text or chat in `record`, which lies at `where`; raises CalibrationError naming the place and the keys that are there."""
    if isinstance(record, str):
        return _utf8(record, where)
    if isinstance(record, list):
        return Chat(_messages(record, where))
    if not isinstance(record, Mapping):
        raise CalibrationError(f"{where} is {record!r:.60}, neither a text nor an object", hint=UNDERSTOOD)
    if record.get("text") is not None or set(record) == {"text"}:
        return _utf8(record["text"], f"{where}: `text`")
    for kind in (_conversation, _pair):
        found = kind(record, where)
        if found is not None:
            return Chat(found, _variables(record))
    if "role" in record or "from" in record:
        raise CalibrationError(f"{where} is one message of a chat; each record must be a whole chat", hint=UNDERSTOOD)
    keys = ", ".join(map(str, record)) or "none"
    raise CalibrationError(f"{where} is not understood; its keys are {keys:.300}", hint=UNDERSTOOD)


def _conversation(record: Mapping[str, Any], where: str) -> list[Message] | None:
    key = next((key for key in _CHATS if isinstance(record.get(key), (list, tuple))), None)
    if key is None:
        return None
    messages = _messages(record[key], f"{where}: `{key}`")
    start = record.get("prompt")
    if key == "chosen" and isinstance(start, (list, tuple)) and not _begins_with(messages, start):
        messages = [*_messages(start, f"{where}: `prompt`"), *messages]
    return _with_system(record, messages, where)


def _pair(record: Mapping[str, Any], where: str) -> list[Message] | None:
    for question, answer, rest in _PAIRS:
        asked, answered = record.get(question), record.get(answer)
        if asked is None or answered is None:
            continue
        messages = _side(asked, "user", f"{where}: `{question}`")
        more = [_utf8(record[key], f"{where}: `{key}`") for key in rest if record.get(key)]
        if more:
            messages[-1]["content"] = "\n\n".join([str(messages[-1]["content"]), *more])
        return _with_system(record, [*messages, *_side(answered, "assistant", f"{where}: `{answer}`")], where)
    return None


def _side(value: object, role: str, where: str) -> list[Message]:
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
        return _messages(value, where)
    return [{"role": role, "content": _utf8(value, where)}]


def _with_system(record: Mapping[str, Any], messages: list[Message], where: str) -> list[Message]:
    key = next((key for key in _SYSTEMS if record.get(key)), None)
    if key is None or messages[0]["role"] in ("system", "developer"):
        return messages
    return [{"role": "system", "content": _utf8(record[key], f"{where}: `{key}`")}, *messages]


def _messages(turns: Sequence[Any], where: str) -> list[Message]:
    if not turns:
        raise CalibrationError(f"{where} has no messages")
    messages = []
    for number, turn in enumerate(turns, 1):
        at = f"{where}, message {number}"
        if not isinstance(turn, Mapping):
            raise CalibrationError(f"{at} is {turn!r:.60}; an object with role and content is needed", hint=UNDERSTOOD)
        given = next((turn[key] for key in ("role", "from", "speaker") if turn.get(key) is not None), None)
        role = _ROLES.get(str(given).strip().lower()) if given is not None else None
        if role is None:
            raise CalibrationError(
                f"{at} has the role {given!r:.40}; its keys are {', '.join(map(str, turn)):.200}",
                hint=f"roles that are understood: {', '.join(_ROLES)}",
            )
        messages.append({"role": role, **_content(turn, at)})
    return messages


def _content(turn: Mapping[str, Any], where: str) -> Message:
    """The content and what belongs to it; an answer that only calls tools has none."""
    given = next((turn[key] for key in ("content", "value", "text") if turn.get(key) is not None), None)
    more = {
        key: turn[key]
        for key in ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking")
        if turn.get(key)
    }
    if isinstance(given, (list, tuple)):
        texts = [part.get("text") for part in given if isinstance(part, Mapping) and part.get("type", "text") == "text"]
        if len(texts) != len(given):
            raise CalibrationError(f"{where} has parts that are no text ({given!r:.80})", hint="text alone is read")
        given = "".join(_utf8(text, where) for text in texts)
    if given is None and not more.get("tool_calls"):
        raise CalibrationError(
            f"{where} has no content; its keys are {', '.join(map(str, turn)):.200}", hint=UNDERSTOOD
        )
    return {"content": "" if given is None else _utf8(given, where), **more}


def _begins_with(messages: list[Message], start: Sequence[Any]) -> bool:
    first = start[0] if start else None
    return isinstance(first, Mapping) and messages[0]["content"] == first.get("content")


def _variables(record: Mapping[str, Any]) -> dict[str, Any]:
    tools = record.get("tools")
    return {"tools": list(tools)} if isinstance(tools, (list, tuple)) and tools else {}


def _utf8(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise CalibrationError(f"{where} is {value!r:.60}, which is no string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CalibrationError(f"{where} cannot be written as UTF-8: {error}") from None
    return value
