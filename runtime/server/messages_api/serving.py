"""The routes of the Messages API: a request becomes a chat, its answer a message."""

from __future__ import annotations

import secrets

from fastapi import Request
from fastapi.responses import Response

from ovround.runtime.server.answer_stream import AnswerStream
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.messages_api.chat import chat_request
from ovround.runtime.server.messages_api.message import MessageFormat
from ovround.runtime.server.messages_api.request import CountRequest, MessagesRequest
from ovround.runtime.server.responses import Json
from ovround.runtime.server.serving_chat import open_chat, prompt_ids
from ovround.runtime.server.unknown_fields import UnknownFields


class MessagesRoutes:
    """The handlers of one server."""

    def __init__(self, engine_client: EngineClient, unknown_fields: UnknownFields) -> None:
        self._engine_client, self._unknown_fields = engine_client, unknown_fields

    async def create(self, request: Request, body: MessagesRequest) -> Response:
        """The assistant's next message."""
        self._unknown_fields.check(body)
        message_id = f"msg_{secrets.token_hex(12)}"
        opened = await open_chat(self._engine_client, message_id, chat_request(body), fit_context=True)
        form = MessageFormat(message_id, self._engine_client.model.name, opened)
        return await AnswerStream(self._engine_client, message_id, opened.jobs, form).response(
            request, stream=body.stream
        )

    async def count(self, body: CountRequest) -> Json:
        """The number of tokens of the prompt."""
        self._unknown_fields.check(body)
        chat = chat_request(body)
        self._engine_client.model.check_name(chat.model)
        return {"input_tokens": len(await prompt_ids(self._engine_client, chat))}
