"""The items of one answer, built event by event, and the events of a stream that report their growth."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from ovround.runtime.server.responses import Json
from ovround.runtime.text.tool_formats.answer_event import AnswerEvent

_ITEM = {"text": "message", "reasoning": "reasoning"}
_DELTA = {"message": "response.output_text", "reasoning": "response.reasoning_text"}


class OutputItems:
    """Reasoning, text and calls, each an item of its own; only the last one is open."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.reasoning = ""
        """The text of all reasoning so far."""
        self._pieces: list[str] = []
        self._is_open = False
        self._logprobs: list[Json] = []

    def add_logprobs(self, entries: Sequence[Json]) -> None:
        """Log-probabilities of tokens, which go with the next text."""
        self._logprobs += entries

    def take(self, event: AnswerEvent) -> Iterator[Json]:
        """The stream's events for what the answer has grown by."""
        kind, text = event
        if kind == "text" or kind == "reasoning":
            if not self._is_open or self.items[-1]["type"] != _ITEM[kind]:
                yield from self._close("completed")
                yield from self._begin_text(_ITEM[kind])
            yield self._delta(text)
        elif kind == "call":
            yield from self._close("completed")
            yield from self._begin(
                {"id": _new_id("fc"), "type": "function_call", "status": "in_progress", "call_id": _new_id("call"),
                 "name": text, "arguments": ""}
            )  # fmt: skip
        elif kind == "arguments":
            self._pieces.append(text)
            yield self._at({"type": "response.function_call_arguments.delta", "delta": text})
        elif self._is_open:
            yield from self._close("completed" if kind == "end" else "incomplete")

    def finish(self, *, cut: bool) -> Iterator[Json]:
        """The last events; an answer without text and calls has an empty message."""
        if not any(item["type"] != "reasoning" for item in self.items):
            yield from self._close("completed")
            yield from self._begin_text("message")
        yield from self._close("incomplete" if cut else "completed")

    def _begin_text(self, kind: str) -> Iterator[Json]:
        if kind == "message":
            part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item: Json = {
                "id": _new_id("msg"),
                "type": kind,
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
        else:
            part = {"type": "reasoning_text", "text": ""}
            item = {"id": _new_id("rs"), "type": kind, "status": "in_progress", "summary": [], "content": []}
        yield from self._begin(item)
        yield self._at({"type": "response.content_part.added", "content_index": 0, "part": part})
        item["content"] = [part]

    def _begin(self, item: Json) -> Iterator[Json]:
        self.items.append(item)
        self._pieces, self._is_open = [], True
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": item}

    def _delta(self, text: str) -> Json:
        item = self.items[-1]
        self._pieces.append(text)
        event: Json = {"type": f"{_DELTA[item['type']]}.delta", "content_index": 0, "delta": text}
        if item["type"] == "message":
            event["logprobs"], self._logprobs = self._logprobs, []
            item["content"][0]["logprobs"] += event["logprobs"]
        return self._at(event)

    def _close(self, status: str) -> Iterator[Json]:
        if not self._is_open:
            return
        item, text = self.items[-1], "".join(self._pieces)
        self._is_open, item["status"] = False, status
        if item["type"] == "function_call":
            item["arguments"] = text
            yield self._at({"type": "response.function_call_arguments.done", "name": item["name"], "arguments": text})
        else:
            part = item["content"][0]
            part["text"] = text
            done: Json = {"type": f"{_DELTA[item['type']]}.done", "content_index": 0, "text": text}
            if item["type"] == "message":
                done["logprobs"] = part["logprobs"]
            else:
                self.reasoning += text
            yield self._at(done)
            yield self._at({"type": "response.content_part.done", "content_index": 0, "part": part})
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": item}

    def _at(self, event: Json) -> Json:
        return {**event, "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}


def _new_id(prefix: str) -> Any:
    return f"{prefix}_{secrets.token_hex(12)}"
