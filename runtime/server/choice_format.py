"""Answers as choices of OpenAI's completions: whole, or as the chunks of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ovround.runtime.decoding.completion import Piece
from ovround.runtime.server import responses
from ovround.runtime.server.answer_reader import AnswerReader, finish_reason
from ovround.runtime.server.job import Job
from ovround.runtime.server.responses import CollectedAnswer, Json
from ovround.runtime.text.tokenizer import Tokenizer
from ovround.runtime.text.tool_formats.answer_parser import AnswerSyntax, ParsedAnswer, parse_answer


class ChoiceFormat(Protocol):
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
    """Chat messages. `syntax` says how reasoning and calls are told from text; None: all of it is text."""

    stream_kind = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, syntax: AnswerSyntax | None) -> None:
        self._tokenizer, self._syntax = tokenizer, syntax
        self._readers: dict[int, AnswerReader] = {}

    def opening(self, count: int) -> list[Json]:
        return [_chunk(index, {"role": "assistant", "content": ""}) for index in range(count)]

    def chunks(self, index: int, piece: Piece) -> list[Json]:
        logprobs = responses.chat_logprobs([piece.logprobs], self._tokenizer) if piece.logprobs is not None else None
        if index not in self._readers:
            self._readers[index] = AnswerReader(self._syntax)
        reader = self._readers[index]
        deltas = _deltas(reader, piece)
        if logprobs and not deltas:
            deltas = [{"content": ""}]
        chunks = [_chunk(index, delta, logprobs if at == 0 else None) for at, delta in enumerate(deltas)]
        if piece.finish_reason is None:
            return chunks
        return [*chunks, _chunk(index, {}, None, reader.finish_reason(piece.finish_reason))]

    def whole(self, index: int, answer: CollectedAnswer) -> Json:
        parsed = ParsedAnswer(answer.text, "", (), False)
        if self._syntax is not None:
            parsed = parse_answer(answer.text, self._syntax, cut=answer.finish_reason == "length")
        message: Json = {
            "role": "assistant",
            "content": parsed.content or (None if parsed.calls else ""),
            "refusal": None,
        }
        if parsed.reasoning:
            message["reasoning_content"] = parsed.reasoning
        if parsed.calls:
            message["tool_calls"] = responses.tool_calls(parsed.calls)
        logprobs = responses.chat_logprobs(answer.logprobs, self._tokenizer) if answer.logprobs else None
        reason = finish_reason(answer.finish_reason, len(parsed.calls), broken=parsed.broken)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _deltas(reader: AnswerReader, piece: Piece) -> list[Json]:
    """What a piece adds to a message: text, reasoning, calls and their arguments."""
    deltas: list[Json] = []
    begun = reader.begun_calls
    for kind, text in reader.read(piece):
        if kind == "text":
            deltas.append({"content": text})
        elif kind == "reasoning":
            deltas.append({"reasoning_content": text})
        elif kind == "call":
            deltas.append({"tool_calls": [{"index": begun, **responses.begun_call(text)}]})
            begun += 1
        elif kind == "arguments":
            deltas.append({"tool_calls": [{"index": begun - 1, "function": {"arguments": text}}]})
    return deltas


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
