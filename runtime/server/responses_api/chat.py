"""A request to /v1/responses as a chat request: items become messages, fields get the names that chat completions have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ovround.runtime.server.chat_message import ChatMessage, TextPart
from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.protocol import ChatRequest
from ovround.runtime.server.responses_api.request import (
    AllowedFunctions,
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    MessageItem,
    NamedFunction,
    Parts,
    ReasoningItem,
    ReferenceItem,
    ResponsesRequest,
)
from ovround.runtime.server.translated_chat import translated_chat

KeptItem = Callable[[str], Item | None]
"""The item of an earlier response by its id; None where it is not kept."""


def input_messages(body: ResponsesRequest, kept_item: KeptItem) -> list[ChatMessage]:
    """The messages of the request's own input; raises FieldError for a reference to an item that is not kept."""
    if isinstance(body.input, str):
        return [ChatMessage(role="user", content=body.input)]
    return messages_of(_resolved(body.input, kept_item))


def chat_request(body: ResponsesRequest, messages: Sequence[ChatMessage]) -> ChatRequest:
    """The request of a chat with `messages`; raises FieldError for fields that contradict each other."""
    chat: dict[str, Any] = {
        "model": body.model, "stream": body.stream, "max_tokens": body.max_output_tokens, "temperature": body.temperature,
        "top_p": body.top_p, "parallel_tool_calls": body.parallel_tool_calls,
        "reasoning_effort": None if body.reasoning is None else body.reasoning.effort,
        "tools": [_tool(tool.model_dump(include={"name", "description", "parameters", "strict"})) for tool in body.tools or []],
        "tool_choice": _tool_choice(body), "response_format": _response_format(body),
    }  # fmt: skip
    if body.wants_logprobs:
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    system = [] if body.instructions is None else [ChatMessage(role="system", content=body.instructions)]
    return translated_chat([*system, *messages], chat)


def messages_of(items: Iterable[Item]) -> list[ChatMessage]:
    """Items as messages: an answer's reasoning, text and calls, which are items of their own, are one message."""
    messages: list[ChatMessage] = []
    answer: dict[str, Any] = {}

    def end_answer() -> None:
        if answer:
            messages.append(ChatMessage.model_validate({"role": "assistant", **answer}))
            answer.clear()

    for item in items:
        if isinstance(item, ReasoningItem):
            if "content" in answer or "tool_calls" in answer:
                end_answer()
            text = "".join(part.text for part in item.content or item.summary)
            answer["reasoning_content"] = answer.get("reasoning_content", "") + text
        elif isinstance(item, FunctionCallItem):
            function = {"name": item.name, "arguments": item.arguments}
            answer.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
        elif isinstance(item, MessageItem) and item.role == "assistant":
            if "content" in answer or "tool_calls" in answer:
                end_answer()
            answer["content"] = _text(item.content)
        else:
            end_answer()
            if isinstance(item, FunctionOutputItem):
                messages.append(ChatMessage(role="tool", tool_call_id=item.call_id, content=_text(item.output)))
            elif isinstance(item, MessageItem):
                messages.append(ChatMessage(role=item.role, content=_text(item.content)))
    end_answer()
    return messages


def _resolved(items: Iterable[Item], kept_item: KeptItem) -> Iterable[Item]:
    for index, item in enumerate(items):
        found = kept_item(item.id) if isinstance(item, ReferenceItem) else item
        if found is None:
            raise FieldError(
                f"input[{index}].id", f"the item `{item.id}` is not kept",
                hint="send the item itself; only the newest stored responses are kept", code="item_not_found",
            )  # fmt: skip
        yield found


def _text(content: str | Parts) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _tool_choice(body: ResponsesRequest) -> Any:
    choice = body.tool_choice
    if isinstance(choice, NamedFunction):
        return _tool({"name": choice.name})
    if isinstance(choice, AllowedFunctions):
        allowed = {"mode": choice.mode, "tools": [_tool({"name": tool.name}) for tool in choice.tools]}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    return choice


def _response_format(body: ResponsesRequest) -> Any:
    form = body.text.format if body.text is not None else None
    if form is None or form.type == "text":
        return None
    fields = form.model_dump(by_alias=True, exclude_none=True, exclude={"type"})
    return (
        {"type": "json_schema", "json_schema": fields} if form.type == "json_schema" else {"type": form.type, **fields}
    )
