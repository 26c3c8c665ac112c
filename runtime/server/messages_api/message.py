"""The message of an answer in Anthropic's form, and the stream of its events."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence

from ovround.runtime.decoding.completion import Piece, Usage
from ovround.runtime.server.answer_format import Event
from ovround.runtime.server.answer_reader import AnswerReader, finish_reason, read_whole
from ovround.runtime.server.failure import Failure
from ovround.runtime.server.responses import CollectedAnswer, Json
from ovround.runtime.server.serving_chat import OpenedChat
from ovround.runtime.text.tool_formats.answer_event import AnswerEvent

_BLOCK = {"text": "text", "reasoning": "thinking"}


class MessageFormat:
    """The answer to one request as a message."""

    def __init__(self, message_id: str, model: str, opened: OpenedChat) -> None:
        self._id, self._model, self._opened = message_id, model, opened
        self._reader = AnswerReader(opened.syntax)
        self._open: str | None = None
        """The type of the content block that grows."""
        self._blocks = 0

    def whole(self, answers: Sequence[CollectedAnswer]) -> Json:
        (answer,) = answers
        events = read_whole(answer.text, self._opened.syntax, cut=answer.finish_reason == "length")
        blocks: list[Json] = []
        broken = False
        for kind, text in events:
            if kind == "text" or kind == "reasoning":
                if not blocks or blocks[-1]["type"] != _BLOCK[kind]:
                    blocks.append(_new_block(_BLOCK[kind]))
                blocks[-1][_BLOCK[kind]] += text
            elif kind == "call":
                blocks.append(_new_call(text) | {"input": ""})
            elif kind == "arguments":
                blocks[-1]["input"] += text
            elif kind == "end":
                blocks[-1]["input"] = json.loads(blocks[-1]["input"] or "{}")
            else:
                broken = True
        blocks = [block for block in blocks if not isinstance(block.get("input"), str)]  # without a call that was cut
        calls = sum(block["type"] == "tool_use" for block in blocks)
        reason = finish_reason(answer.finish_reason, calls, broken=broken)
        return self._message(blocks) | {
            **self._end(answer.last, reason), "usage": _usage(answer.last, self._opened.prompt_tokens)
        }  # fmt: skip

    def opening(self) -> Iterable[Event]:
        yield _event({"type": "message_start", "message": self._message([])})

    def events(self, index: int, piece: Piece) -> Iterable[Event]:
        for event in self._reader.read(piece):
            yield from map(_event, self._grown(event))

    def closing(self, ends: Sequence[Piece]) -> Iterable[Event]:
        yield from map(_event, self._stop())
        (end,) = ends
        delta = self._end(end, self._reader.finish_reason(end.finish_reason))
        yield _event({"type": "message_delta", "delta": delta, "usage": _usage(end, self._opened.prompt_tokens)})
        yield _event({"type": "message_stop"})

    def failure(self, failure: Failure) -> Iterable[Event]:
        yield _event(failure.body("/v1/messages"))

    def _grown(self, event: AnswerEvent) -> Iterator[Json]:
        kind, text = event
        if kind == "text" or kind == "reasoning":
            block = _BLOCK[kind]
            if self._open != block:
                yield from self._start(_new_block(block))
            yield self._delta({"type": f"{block}_delta", block: text})
        elif kind == "call":
            yield from self._start(_new_call(text))
        elif kind == "arguments":
            yield self._delta({"type": "input_json_delta", "partial_json": text})
        else:
            yield from self._stop()

    def _start(self, block: Json) -> Iterator[Json]:
        yield from self._stop()
        self._open = block["type"]
        self._blocks += 1
        yield {"type": "content_block_start", "index": self._blocks - 1, "content_block": block}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._blocks - 1, "delta": delta}

    def _stop(self) -> Iterator[Json]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._blocks - 1}

    def _end(self, end: Piece | None, reason: str | None) -> Json:
        stop_string = None if end is None else end.stop_string
        stop = {"tool_calls": "tool_use", "length": "max_tokens"}.get(reason or "", "end_turn")
        if stop == "max_tokens" and self._opened.fills_context:
            stop = "model_context_window_exceeded"
        if stop == "end_turn" and stop_string is not None:
            stop = "stop_sequence"
        return {"stop_reason": stop, "stop_sequence": stop_string if stop == "stop_sequence" else None}

    def _message(self, content: list[Json]) -> Json:
        return {
            "id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": content,
            "stop_reason": None, "stop_sequence": None, "usage": _usage(None, self._opened.prompt_tokens),
        }  # fmt: skip


def _new_block(kind: str) -> Json:
    return {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}


def _new_call(name: str) -> Json:
    return {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": name, "input": {}}


def _usage(end: Piece | None, prompt_tokens: int) -> Json:
    """Token counts; those of a prompt that were cached are counted apart."""
    used = end.usage if end is not None and end.usage is not None else Usage(prompt_tokens, 0)
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens, "output_tokens": used.completion_tokens,
        "cache_read_input_tokens": used.cached_tokens, "cache_creation_input_tokens": 0,
    }  # fmt: skip


def _event(event: Json) -> Event:
    return {"event": event["type"], "data": json.dumps(event)}
