"""A request to /v1/messages as a chat request: blocks become messages, fields get the names that chat completions have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ovround.runtime.server.chat_message import ChatMessage
from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.messages_api.request import (
    CountRequest,
    InputMessage,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from ovround.runtime.server.protocol import ChatRequest
from ovround.runtime.server.translated_chat import translated_chat


def chat_request(body: CountRequest) -> ChatRequest:
    """The request of a chat; raises FieldError for fields that contradict each other, and for an answer to be continued."""
    last = len(body.messages) - 1
    if body.messages[last].role == "assistant":
        raise FieldError(
            f"messages[{last}].role", f"`messages[{last}].role` is \"assistant\": the answer is a message of its own",
            hint="end with a message of the user", code=None,
        )  # fmt: skip
    chat: dict[str, Any] = {"model": body.model, "tools": [_tool(tool.model_dump()) for tool in body.tools or []]}
    if body.tool_choice is not None:
        kind = body.tool_choice.type
        named = {"type": "function", "function": {"name": body.tool_choice.name}}
        chat["tool_choice"] = named if kind == "tool" else {"any": "required"}.get(kind, kind)
        if body.tool_choice.disable_parallel_tool_use is not None:
            chat["parallel_tool_calls"] = not body.tool_choice.disable_parallel_tool_use
    if body.thinking is not None:
        chat["chat_template_kwargs"] = {"enable_thinking": body.thinking.type != "disabled"}
    form = body.output_format
    if body.output_config is not None:
        chat["reasoning_effort"] = body.output_config.effort
        form = body.output_config.format or form
    if form is not None:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"schema": form.schema_}}
    if isinstance(body, MessagesRequest):
        chat |= {
            "max_tokens": body.max_tokens, "stream": body.stream, "stop": body.stop_sequences, "top_k": body.top_k,
            "temperature": body.temperature, "top_p": body.top_p,
        }  # fmt: skip
    system = [] if body.system is None else [ChatMessage(role="system", content=_text(body.system))]
    messages = [message for given in body.messages for message in _messages(given)]
    return translated_chat([*system, *messages], chat)


def _messages(given: InputMessage) -> Iterator[ChatMessage]:
    """A message of blocks as messages: the results of tools are messages of their own, before the user's words."""
    if isinstance(given.content, str):
        yield ChatMessage(role=given.role, content=given.content)
        return
    message: dict[str, Any] = {"role": given.role}
    texts: list[TextBlock] = []
    for block in given.content:
        if isinstance(block, TextBlock):
            texts.append(block)
        elif isinstance(block, ToolResultBlock):
            yield ChatMessage(role="tool", tool_call_id=block.tool_use_id, content=_text(block.content or ""))
        elif isinstance(block, ThinkingBlock):
            message["reasoning_content"] = message.get("reasoning_content", "") + block.thinking
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
            message.setdefault("tool_calls", []).append({"id": block.id, "type": "function", "function": function})
    has_results = any(isinstance(block, ToolResultBlock) for block in given.content)
    if texts or "tool_calls" in message or not has_results:
        yield ChatMessage.model_validate({**message, "content": _text(texts) if texts else None})


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {"name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"]}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}
