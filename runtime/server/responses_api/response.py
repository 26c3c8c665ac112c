"""The object of a response, and the stream of its events."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence

from ovround.runtime.decoding.completion import Piece, Usage
from ovround.runtime.server import responses
from ovround.runtime.server.answer_format import Event
from ovround.runtime.server.answer_reader import AnswerReader, read_whole
from ovround.runtime.server.failure import Failure
from ovround.runtime.server.responses import CollectedAnswer, Json
from ovround.runtime.server.responses_api.output import OutputItems
from ovround.runtime.server.responses_api.request import ResponsesRequest
from ovround.runtime.text.tokenizer import Tokenizer
from ovround.runtime.text.tool_formats.answer_parser import AnswerSyntax

_ECHOED = ("instructions", "max_output_tokens", "previous_response_id", "top_p", "top_logprobs", "user", "metadata")


class ResponseFormat:
    """The answer to one request as a response; `keep` gets the finished object."""

    def __init__(
        self, response_id: str, model: str, body: ResponsesRequest, syntax: AnswerSyntax | None, tokenizer: Tokenizer,
        keep: Callable[[Json], None],
    ) -> None:  # fmt: skip
        self._id, self._model, self._body, self._syntax = response_id, model, body, syntax
        self._tokenizer, self._keep = tokenizer, keep
        self._reader = AnswerReader(syntax)
        self._output = OutputItems()
        self._created = int(time.time())
        self._events_sent = 0

    def whole(self, answers: Sequence[CollectedAnswer]) -> Json:
        (answer,) = answers
        self._output.add_logprobs(responses.chat_logprobs(answer.logprobs, self._tokenizer)["content"])
        for event in read_whole(answer.text, self._syntax, cut=answer.finish_reason == "length"):
            for _ in self._output.take(event):
                pass
        for _ in self._output.finish(cut=answer.finish_reason == "length"):
            pass
        return self._finished(answer.last)

    def opening(self) -> Iterable[Event]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event({"type": kind, "response": self._object("in_progress")})

    def events(self, index: int, piece: Piece) -> Iterable[Event]:
        if piece.logprobs is not None:
            self._output.add_logprobs(responses.chat_logprobs([piece.logprobs], self._tokenizer)["content"])
        for event in self._reader.read(piece):
            yield from map(self._event, self._output.take(event))

    def closing(self, ends: Sequence[Piece]) -> Iterable[Event]:
        (end,) = ends
        yield from map(self._event, self._output.finish(cut=end.finish_reason == "length"))
        response = self._finished(end)
        yield self._event({"type": f"response.{response['status']}", "response": response})

    def failure(self, failure: Failure) -> Iterable[Event]:
        code = "rate_limit_exceeded" if failure.status == 429 else "server_error"
        response = self._object("failed") | {"error": {"code": code, "message": failure.message}}
        yield self._event({"type": "response.failed", "response": response})

    def _event(self, event: Json) -> Event:
        data = json.dumps({**event, "sequence_number": self._events_sent})
        self._events_sent += 1
        return {"event": event["type"], "data": data}

    def _finished(self, end: Piece | None) -> Json:
        used = end.usage if end is not None and end.usage is not None else Usage(0, 0)
        cut = end is not None and end.finish_reason == "length"
        response = self._object("incomplete" if cut else "completed") | {
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "completed_at": None if cut else int(time.time()),
            "usage": {
                "input_tokens": used.prompt_tokens,
                "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": used.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens()},
                "total_tokens": used.prompt_tokens + used.completion_tokens,
            },
        }
        self._keep(response)
        return response

    def _reasoning_tokens(self) -> int:
        text = self._output.reasoning
        return len(self._tokenizer.encode(text, add_special_tokens=False)) if text else 0

    def _object(self, status: str) -> Json:
        body = self._body
        given = body.model_dump(by_alias=True, exclude_none=True, include={"text", "tools", "tool_choice", "reasoning"})
        return {
            "id": self._id, "object": "response", "created_at": self._created, "status": status, "error": None,
            "incomplete_details": None, "model": self._model, "output": self._output.items,
            **{name: getattr(body, name) for name in _ECHOED}, "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False, "temperature": body.temperature or 0.0,
            "text": {"format": {"type": "text"}} | given.get("text", {}), "tools": given.get("tools", []),
            "tool_choice": given.get("tool_choice", "auto"),
            "reasoning": {"effort": None, "summary": None} | given.get("reasoning", {}),
            "store": body.store, "background": False, "truncation": "disabled", "usage": None,
        }  # fmt: skip
