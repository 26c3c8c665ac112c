"""The routes of the Responses API: a request becomes a chat, its answer a response that is kept."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from ovround.runtime.server.answer_stream import AnswerStream
from ovround.runtime.server.chat_message import ChatMessage
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.responses import Json
from ovround.runtime.server.responses_api.chat import chat_request, input_messages, messages_of
from ovround.runtime.server.responses_api.request import Item, ResponsesRequest
from ovround.runtime.server.responses_api.response import ResponseFormat
from ovround.runtime.server.responses_api.store import ResponseStore, StoredResponse, UnknownResponseError
from ovround.runtime.server.serving_chat import open_chat
from ovround.runtime.server.unknown_fields import UnknownFields

_ITEM: TypeAdapter[Any] = TypeAdapter(Item)


class ResponsesRoutes:
    """The handlers of one server."""

    def __init__(self, engine_client: EngineClient, unknown_fields: UnknownFields) -> None:
        self._engine_client, self._unknown_fields = engine_client, unknown_fields
        self._store = ResponseStore()

    async def create(self, request: Request, body: ResponsesRequest) -> Response:
        """The answer to `input`, and to the conversation of `previous_response_id` before it."""
        self._unknown_fields.check(body)
        messages = [*self._earlier(body.previous_response_id), *input_messages(body, self._kept_item)]
        response_id = f"resp_{secrets.token_hex(16)}"
        opened = await open_chat(self._engine_client, response_id, chat_request(body, messages))
        model = self._engine_client.model

        def keep(response: Json) -> None:
            if body.store:
                self._store.put(response, [*messages, *_answer(response)])

        form = ResponseFormat(response_id, model.name, body, opened.syntax, model.tokenizer, keep)
        return await AnswerStream(self._engine_client, response_id, opened.jobs, form).response(
            request, stream=body.stream
        )

    async def get(self, response_id: str) -> Json:
        """A response that is kept."""
        return self._stored(response_id).response

    async def delete(self, response_id: str) -> Json:
        """Forget a response."""
        self._stored(response_id)
        self._store.remove(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    def _stored(self, response_id: str) -> StoredResponse:
        stored = self._store.get(response_id)
        if stored is None:
            raise UnknownResponseError(f"no response `{response_id}` is kept")
        return stored

    def _earlier(self, response_id: str | None) -> Sequence[ChatMessage]:
        if response_id is None:
            return []
        stored = self._store.get(response_id)
        if stored is None:
            raise FieldError(
                "previous_response_id", f"no response `{response_id}` is kept",
                hint="only the newest responses with `store` are kept; send the whole conversation as `input`",
                code="previous_response_not_found",
            )  # fmt: skip
        return stored.messages

    def _kept_item(self, item_id: str) -> Any:
        item = self._store.item(item_id)
        return None if item is None else _ITEM.validate_python(item)


def _answer(response: Json) -> list[ChatMessage]:
    return messages_of([_ITEM.validate_python(item) for item in response["output"]])
