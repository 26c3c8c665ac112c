"""The form that one protocol gives to the answers of a request: one object, or the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ovround.runtime.decoding.completion import Piece
from ovround.runtime.server import responses
from ovround.runtime.server.choice_format import ChoiceFormat
from ovround.runtime.server.failure import Failure
from ovround.runtime.server.responses import CollectedAnswer, Head, Json

Event = str | dict[str, Any]
"""The data of a server-sent event, or `{"event": name, "data": data}`."""


class AnswerFormat(Protocol):
    """The answers of one request; a stream has its opening, the events of each piece, then its closing or a failure."""

    def whole(self, answers: Sequence[CollectedAnswer]) -> Json:
        """The object of the finished answers."""
        ...

    def opening(self) -> Iterable[Event]: ...

    def events(self, index: int, piece: Piece) -> Iterable[Event]:
        """What a piece of one answer adds; often nothing."""
        ...

    def closing(self, ends: Sequence[Piece]) -> Iterable[Event]:
        """The end of the stream, from each answer's last piece."""
        ...

    def failure(self, failure: Failure) -> Iterable[Event]:
        """The end of a stream that fails."""
        ...


class CompletionObjects:
    """OpenAI's completions: one object with all choices, or a chunk a choice and `[DONE]`."""

    def __init__(
        self, head: Head, choices: ChoiceFormat, *, count: int, prompts: int, path: str, wants_usage: bool,
        repeatable: bool | None = None,
    ) -> None:  # fmt: skip
        """`repeatable`: whether the request's seed gives the same answer again; None without a seed."""
        self._head, self._choices, self._count, self._prompts = head, choices, count, prompts
        self._path, self._wants_usage = path, wants_usage
        self._notes = {} if repeatable is None else {"repeatable": repeatable}
        self._chunk_head = replace(head, kind=choices.stream_kind)

    def whole(self, answers: Sequence[CollectedAnswer]) -> Json:
        ends = [answer.last for answer in answers if answer.last is not None]
        choices = [self._choices.whole(index, answer) for index, answer in enumerate(answers)]
        more = {"usage": responses.usage(ends, self._prompts), "timings": responses.timings(ends[0])}
        return self._head.object(choices, **more, **self._notes)

    def opening(self) -> Iterable[Event]:
        for choice in self._choices.opening(self._count):
            yield json.dumps(self._chunk_head.object([choice]))

    def events(self, index: int, piece: Piece) -> Iterable[Event]:
        for choice in self._choices.chunks(index, piece):
            is_last = choice["finish_reason"] is not None
            more = {"timings": responses.timings(piece), **self._notes} if is_last else {}
            yield json.dumps(self._chunk_head.object([choice], **more))

    def closing(self, ends: Sequence[Piece]) -> Iterable[Event]:
        if self._wants_usage:
            yield json.dumps(self._chunk_head.object([], usage=responses.usage(ends, self._prompts)))
        yield "[DONE]"

    def failure(self, failure: Failure) -> Iterable[Event]:
        yield json.dumps(failure.body(self._path))
