"""The fields of a request to /v1/responses, and the items of its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, StringConstraints, Tag

from ovround.runtime.server.chat_message import MAX_MESSAGES, Part
from ovround.runtime.server.protocol import MAX_TOOLS, JsonObjectFormat, TextFormat
from ovround.runtime.server.request_model import Limit, Name, RequestModel, Text, Whole

Parts = Annotated[list[Part], Field(max_length=MAX_MESSAGES)]


class MessageItem(RequestModel):
    """A message of any role; one of an earlier answer has an id and a status."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text | Parts
    id: Name | None = None
    status: Name | None = None
    phase: Name | None = None


class FunctionCallItem(RequestModel):
    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: Text
    id: Name | None = None
    status: Name | None = None
    caller: JsonValue = None
    namespace: Name | None = None
    async_: bool | None = Field(default=None, alias="async")


class FunctionOutputItem(RequestModel):
    type: Literal["function_call_output"]
    call_id: Name | None = None
    output: Text | Parts
    id: Name | None = None
    status: Name | None = None
    name: Name | None = None
    caller: JsonValue = None
    namespace: Name | None = None


class ReasoningPart(RequestModel):
    type: Literal["reasoning_text", "summary_text"]
    text: Text


ReasoningParts = Annotated[list[ReasoningPart], Field(max_length=MAX_MESSAGES)]


class ReasoningItem(RequestModel):
    type: Literal["reasoning"]
    id: Name | None = None
    summary: ReasoningParts = Field(default_factory=list)
    content: ReasoningParts | None = None
    encrypted_content: Text | None = None
    status: Name | None = None


class ReferenceItem(RequestModel):
    """An item of a response that the server has kept."""

    type: Literal["item_reference"] = "item_reference"
    id: Name


def _kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if kind is None and isinstance(value, dict):
        return "item_reference" if "id" in value and "role" not in value else "message"
    return kind if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(_kind),
]


class FunctionTool(RequestModel):
    type: Literal["function"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: Text | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class NamedFunction(RequestModel):
    type: Literal["function"]
    name: Name


class AllowedFunctions(RequestModel):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1, max_length=MAX_TOOLS)]


class SchemaFormat(RequestModel):
    type: Literal["json_schema"]
    name: Annotated[str, StringConstraints(max_length=64)] = "answer"
    schema_: dict[str, JsonValue] = Field(alias="schema")
    description: Text | None = None
    strict: bool | None = None


class TextOptions(RequestModel):
    format: Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Name | None = None


class Reasoning(RequestModel):
    effort: Name | None = None
    summary: Name | None = None
    generate_summary: Name | None = None
    context: Name | None = None
    mode: Name | None = None


class ResponsesRequest(RequestModel):
    """/v1/responses; the default of `temperature` is 0, as for the other routes."""

    unserved: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": (False,), "conversation": (), "prompt": (), "moderation": (), "context_management": ([],),
    }  # fmt: skip

    model: Name | None = None
    input: Text | Annotated[list[Item], Field(max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    previous_response_id: Name | None = None
    store: bool = True
    stream: bool = False
    max_output_tokens: Annotated[Annotated[int, Field(ge=1, le=2**31 - 1)] | None, Limit] = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), Whole] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[NamedFunction | AllowedFunctions, Field(discriminator="type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: Annotated[list[Name], Field(max_length=64)] | None = None
    metadata: Annotated[dict[Name, Name], Field(max_length=64)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # without a meaning for a local model
    user: Name | None = None
    service_tier: Name | None = None
    safety_identifier: Name | None = None
    prompt_cache_key: Name | None = None
    prompt_cache_retention: Name | None = None
    prompt_cache_options: JsonValue = None
    stream_options: JsonValue = None
    max_tool_calls: JsonValue = None
    background_options: JsonValue = None
    access_programs: JsonValue = None
    image: JsonValue = None

    @property
    def wants_logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or []) or bool(self.top_logprobs)
