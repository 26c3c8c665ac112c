"""The responses that a client may ask for again or continue, in bounded memory: the longest unused ones are forgotten."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ovround.errors import OvroundError
from ovround.limits import LIMITS
from ovround.runtime.server.chat_message import ChatMessage
from ovround.runtime.server.responses import Json

_OBJECT_BYTES = 2000  # what a small response takes beside its texts


class UnknownResponseError(OvroundError):
    """A request names a response that is not kept."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A finished response, and the conversation up to and with it, without its instructions."""

    response: Json
    messages: Sequence[ChatMessage]
    size_bytes: int


class ResponseStore:
    """Responses by id, and their output items by the items' ids. Used on the event loop only."""

    def __init__(self, limit_bytes: int = LIMITS.stored_response_bytes) -> None:
        self._limit_bytes = limit_bytes
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._items: dict[str, Json] = {}
        self._size_bytes = 0

    def put(self, response: Json, messages: Sequence[ChatMessage]) -> None:
        """Keep a response; one that is larger than the whole memory is not kept."""
        texts = sum(len(message.model_dump_json(exclude_none=True)) for message in messages)
        size = len(json.dumps(response)) + texts + _OBJECT_BYTES
        if size > self._limit_bytes:
            return
        self._responses[response["id"]] = StoredResponse(response, messages, size)
        self._items |= {item["id"]: item for item in response["output"]}
        self._size_bytes += size
        while self._size_bytes > self._limit_bytes:
            self.remove(next(iter(self._responses)))

    def get(self, response_id: str) -> StoredResponse | None:
        """The response, which counts as used now."""
        stored = self._responses.get(response_id)
        if stored is not None:
            self._responses.move_to_end(response_id)
        return stored

    def item(self, item_id: str) -> Json | None:
        """An output item of a kept response."""
        return self._items.get(item_id)

    def remove(self, response_id: str) -> bool:
        """Forget a response; False where there is none."""
        stored = self._responses.pop(response_id, None)
        if stored is None:
            return False
        self._size_bytes -= stored.size_bytes
        for item in stored.response["output"]:
            del self._items[item["id"]]
        return True
