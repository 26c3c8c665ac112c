"""The messages of a chat, as clients send them and as a chat template reads them.

Every message that this server or OpenAI's has sent can be sent back, also as a client's own types write it: with its
`annotations`, `refusal`, `audio`, `function_call`, the `index` of streamed calls, and nulls.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from ovround.runtime.server.request_model import Name, RequestModel, Text

MAX_MESSAGES = 4096
MAX_CALLS = 128


class TextPart(RequestModel):
    type: Literal["text", "input_text", "output_text"]
    text: Text
    cache_control: JsonValue = None
    annotations: JsonValue = None
    citations: JsonValue = None
    logprobs: JsonValue = None
    prompt_cache_breakpoint: JsonValue = None


class RefusalPart(RequestModel):
    type: Literal["refusal"]
    refusal: Text


Part = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class CalledFunction(RequestModel):
    name: Name
    arguments: Text = ""


class CustomInput(RequestModel):
    name: Name
    input: Text = ""


class FunctionCall(RequestModel):
    id: Name = ""
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def for_template(self) -> dict[str, Any]:
        """The call with its arguments as an object; a broken call of the model keeps their text."""
        return {"id": self.id, "type": "function", "function": _called(self.function)}


class CustomCall(RequestModel):
    id: Name = ""
    type: Literal["custom"]
    custom: CustomInput
    index: int | None = None

    def for_template(self) -> dict[str, Any]:
        """The call of a function with the one argument `input`."""
        function = {"name": self.custom.name, "arguments": {"input": self.custom.input}}
        return {"id": self.id, "type": "function", "function": function}


class MessageAudio(RequestModel):
    id: Name | None = None
    data: Text | None = None
    expires_at: int | None = None
    transcript: Text | None = None


class ChatMessage(RequestModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Annotated[list[Part], Field(max_length=MAX_MESSAGES)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[CustomCall | FunctionCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: Name | None = None
    function_call: CalledFunction | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    refusal: Text | None = None
    audio: MessageAudio | None = None
    annotations: JsonValue = None
    cache_control: JsonValue = None

    @model_validator(mode="after")
    def _has_words(self) -> ChatMessage:
        if self.audio is not None and self.audio.transcript is None and self.content is None:
            raise ValueError("audio has no transcript, and this server keeps no audio: send the text as `content`")
        return self

    def for_template(self, *, knows_developer: bool = True) -> dict[str, Any]:
        """The message for a chat template: content is one text, the arguments of calls are objects.

        The content of a message that only calls tools is None, by which templates tell such messages. The role `developer`
        becomes `system` for a template without it, `function` becomes `tool`.
        """
        role = "tool" if self.role == "function" else self.role
        calls = [call.for_template() for call in self.tool_calls or []]
        if self.function_call is not None:
            calls.append({"id": "", "type": "function", "function": _called(self.function_call)})
        text = self._text()
        message: dict[str, Any] = {
            "role": "system" if role == "developer" and not knows_developer else role,
            "content": text if text is not None or calls else "",
            "name": self.name, "tool_call_id": self.tool_call_id, "tool_calls": calls or None,
            "reasoning_content": self.reasoning_content if self.reasoning_content is not None else self.reasoning,
        }  # fmt: skip
        return {key: value for key, value in message.items() if value is not None or key == "content"}

    def _text(self) -> str | None:
        if isinstance(self.content, list):
            return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in self.content)
        if self.content is not None:
            return self.content
        return self.refusal if self.audio is None else self.audio.transcript


def template_messages(messages: Sequence[ChatMessage], *, knows_developer: bool) -> list[dict[str, Any]]:
    """The messages for a chat template, which has the role `developer` or not."""
    return [message.for_template(knows_developer=knows_developer) for message in messages]


def _called(function: CalledFunction) -> dict[str, Any]:
    arguments: Any = function.arguments
    with suppress(ValueError, RecursionError):  # the template gets the text
        arguments = json.loads(arguments) if arguments.strip() else {}
    return {"name": function.name, "arguments": arguments}
