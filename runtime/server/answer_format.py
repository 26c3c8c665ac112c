"""Answers as choices of OpenAI's objects: whole, or as the chunks of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ovround.runtime.decoding.completion import Piece
from ovround.runtime.server import responses
from ovround.runtime.server.job import Job
from ovround.runtime.server.responses import CollectedAnswer, Json
from ovround.runtime.server.tool_calls import parse_calls
from ovround.runtime.text.tokenizer import Tokenizer


class AnswerFormat(Protocol):
    """The choices of one route."""

    stream_kind: str

    def opening(self, count: int) -> list[Json]:
        """The first chunks of a stream of `count` choices."""
        ...

    def chunks(self, index: int, piece: Piece) -> list[Json]:
        """The chunks that a piece of one choice adds to a stream; often none."""
        ...

    def whole(self, index: int, answer: CollectedAnswer) -> Json:
        """A finished choice."""
        ...


class ChatFormat:
    """Chat messages. Where tools `names` can be called, a streamed answer is held back until its end shows whether it is a call."""

    stream_kind = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, names: Sequence[str]) -> None:
        self._tokenizer, self._names = tokenizer, names
        self._held: dict[int, CollectedAnswer] = {}

    def opening(self, count: int) -> list[Json]:
        return [_chunk(index, {"role": "assistant", "content": ""}) for index in range(count)]

    def chunks(self, index: int, piece: Piece) -> list[Json]:
        if self._names:
            return self._with_tools(index, piece)
        logprobs = responses.chat_logprobs([piece.logprobs], self._tokenizer) if piece.logprobs is not None else None
        chunks = [_chunk(index, {"content": piece.text}, logprobs)] if piece.text or logprobs else []
        return [*chunks, _chunk(index, {}, None, piece.finish_reason)] if piece.finish_reason is not None else chunks

    def whole(self, index: int, answer: CollectedAnswer) -> Json:
        content, calls = parse_calls(answer.text, self._names) if self._names else (answer.text, [])
        message: Json = {"role": "assistant", "content": content if content or not calls else None, "refusal": None}
        if calls:
            message["tool_calls"] = responses.tool_calls(calls)
        logprobs = responses.chat_logprobs(answer.logprobs, self._tokenizer) if answer.logprobs else None
        reason = "tool_calls" if calls else answer.finish_reason
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def _with_tools(self, index: int, piece: Piece) -> list[Json]:
        held = self._held.setdefault(index, CollectedAnswer())
        held.take(piece)
        if piece.finish_reason is None:
            return []
        content, calls = parse_calls(held.text, self._names)
        delta: Json = {"content": content} if content else {}
        if calls:
            delta["tool_calls"] = [
                {"index": position, **call} for position, call in enumerate(responses.tool_calls(calls))
            ]
        logprobs = responses.chat_logprobs(held.logprobs, self._tokenizer) if held.logprobs else None
        return [_chunk(index, delta, logprobs), _chunk(index, {}, None, "tool_calls" if calls else piece.finish_reason)]


class CompletionFormat:
    """Texts. `echoes` are the prompts that precede the answers; `silent` leaves out the answers themselves."""

    stream_kind = "text_completion"

    def __init__(
        self, tokenizer: Tokenizer, jobs: Sequence[Job], echoes: Sequence[str | None], *, silent: bool
    ) -> None:  # fmt: skip
        self._tokenizer, self._jobs, self._silent = tokenizer, jobs, silent
        self._echoes = {index: echo for index, echo in enumerate(echoes) if echo is not None}

    def opening(self, count: int) -> list[Json]:
        return []

    def chunks(self, index: int, piece: Piece) -> list[Json]:
        answer = CollectedAnswer()
        answer.take(piece)
        choice = self.whole(index, answer)
        return [choice] if choice["text"] or choice["logprobs"] or choice["finish_reason"] else []

    def whole(self, index: int, answer: CollectedAnswer) -> Json:
        echo = self._echoes.pop(index, "")  # once
        answer_logprobs = [] if self._silent else answer.logprobs
        logprobs = None
        if self._jobs[index].options.logprobs is not None:
            logprobs = responses.completion_logprobs(
                self._jobs[index].prompt_ids, answer.prompt_logprobs, answer_logprobs, self._tokenizer
            )
        reason = "length" if self._silent and answer.finish_reason else answer.finish_reason
        return {
            "index": index, "text": echo + ("" if self._silent else answer.text), "logprobs": logprobs,
            "finish_reason": reason,
        }  # fmt: skip


def _chunk(index: int, delta: Json, logprobs: Json | None = None, reason: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
