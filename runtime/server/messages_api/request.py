"""The fields of a request to /v1/messages, and the blocks of its messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from ovround.runtime.decoding.sampling import MAX_STOP_STRINGS
from ovround.runtime.server.chat_message import MAX_MESSAGES
from ovround.runtime.server.protocol import MAX_TOOLS, StopText
from ovround.runtime.server.request_model import Name, RequestModel, Text, Whole


class TextBlock(RequestModel):
    type: Literal["text"]
    text: Text
    cache_control: JsonValue = None
    citations: JsonValue = None


class ToolUseBlock(RequestModel):
    type: Literal["tool_use"]
    id: Name
    name: Name
    input: dict[str, JsonValue]
    cache_control: JsonValue = None
    caller: JsonValue = None
    toolset_name: Name | None = None


TextBlocks = Annotated[list[TextBlock], Field(max_length=MAX_MESSAGES)]


class ToolResultBlock(RequestModel):
    type: Literal["tool_result"]
    tool_use_id: Name
    content: Text | TextBlocks | None = None
    is_error: bool | None = None
    cache_control: JsonValue = None
    toolset_name: Name | None = None


class ThinkingBlock(RequestModel):
    type: Literal["thinking"]
    thinking: Text
    signature: Text | None = None


class RedactedThinkingBlock(RequestModel):
    """Reasoning that only its own server can read; it is left out."""

    type: Literal["redacted_thinking"]
    data: Text


Block = Annotated[
    TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock, Field(discriminator="type")
]


class InputMessage(RequestModel):
    role: Literal["user", "assistant", "system"]
    content: Text | Annotated[list[Block], Field(max_length=MAX_MESSAGES)]


class ClientTool(RequestModel):
    """A tool of the client's own."""

    type: Literal["custom"] = "custom"
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: Text | None = None
    input_schema: dict[str, JsonValue]
    cache_control: JsonValue = None
    strict: bool | None = None
    input_examples: JsonValue = None
    allowed_callers: JsonValue = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None


class ToolChoice(RequestModel):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _names_a_tool(self) -> ToolChoice:
        if self.type == "tool" and self.name is None:
            raise ValueError("tool_choice of type `tool` needs the tool's name")
        return self


class Thinking(RequestModel):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: JsonValue = None
    display: Name | None = None


class JsonFormat(RequestModel):
    type: Literal["json_schema"]
    schema_: dict[str, JsonValue] = Field(alias="schema")


class OutputConfig(RequestModel):
    format: JsonFormat | None = None
    effort: Name | None = None


class CountRequest(RequestModel):
    """/v1/messages/count_tokens: what a prompt is made of."""

    unserved: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mcp_servers": ([],),
        "container": (),
        "context_management": (),
    }

    model: Name | None = None
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Text | TextBlocks | None = None
    tools: Annotated[list[ClientTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    """The field's place before `output_config`."""
    # without a meaning for a local model
    cache_control: JsonValue = None
    speed: Name | None = None
    user_profile_id: Name | None = None
    workspace_id: Name | None = None


class MessagesRequest(CountRequest):
    """/v1/messages; a limit of tokens above the context's is the context's. The default of `temperature` is 0."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), Whole]
    stream: bool = False
    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOP_STRINGS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1), Whole] | None = None
    metadata: Annotated[dict[Name, JsonValue], Field(max_length=64)] | None = None
    service_tier: Name | None = None
    inference_geo: Name | None = None
    diagnostics: JsonValue = None
