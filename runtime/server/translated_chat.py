"""A request of another protocol as a chat request, which is checked like one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ovround.runtime.server.chat_message import ChatMessage
from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.protocol import ChatRequest
from ovround.runtime.server.request_error import describe


def translated_chat(messages: Sequence[ChatMessage], fields: Mapping[str, Any]) -> ChatRequest:
    """The request for a chat; raises FieldError, in the words of chat completions, where the fields contradict each other."""
    body = {"messages": list(messages), **{name: value for name, value in fields.items() if value is not None}}
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        message, param = describe(error.errors(), body)
        raise FieldError(param, message, code=None) from error
