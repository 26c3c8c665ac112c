"""What a growing answer consists of: text, reasoning, and calls whose arguments come piece by piece."""

from __future__ import annotations

from typing import Literal, NamedTuple

EventKind = Literal["text", "reasoning", "call", "arguments", "end", "broken"]


class AnswerEvent(NamedTuple):
    """One piece of an answer.

    `text` and `reasoning` are shown text. `call` begins a call and holds the tool's name; `arguments` are pieces of its JSON text;
    `end` completes it. `broken` ends a call that is not complete; it holds the call as the model wrote it.
    """

    kind: EventKind
    text: str


def text_event(text: str) -> AnswerEvent:
    return AnswerEvent("text", text)


def reasoning_event(text: str) -> AnswerEvent:
    return AnswerEvent("reasoning", text)


def arguments_event(text: str) -> AnswerEvent:
    return AnswerEvent("arguments", text)
