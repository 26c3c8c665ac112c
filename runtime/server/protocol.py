"""The fields of a request, each with its range and default.

OpenAI's clients also send fields without a meaning for one local model (`user`, `store`, ...). The server accepts and ignores
them; `Ignored` lists them. `field_support` says which fields need a certain engine, `unknown_fields` what becomes of others.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from ovround.limits import LIMITS
from ovround.runtime.decoding.grammar import ANY_JSON_OBJECT, Grammar
from ovround.runtime.decoding.sampling import MAX_LOGIT_BIAS, MAX_STOP_STRINGS, SamplingOptions
from ovround.runtime.server.chat_message import MAX_MESSAGES, ChatMessage
from ovround.runtime.server.request_model import Limit, Name, RequestModel, Text, Whole

MAX_CHOICES = 16
MAX_PROMPTS = 256
MAX_TOKENS = 2**20
MAX_TOOLS = 128
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKENS)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Source = Annotated[str, StringConstraints(min_length=1, max_length=LIMITS.grammar_characters)]


class StreamOptions(RequestModel):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class JsonSchema(RequestModel):
    name: Annotated[str, StringConstraints(max_length=64)] = "answer"
    description: Text | None = None
    schema_: dict[str, JsonValue] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(RequestModel):
    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    type: Literal["json_object"]
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    """As llama.cpp's server takes it; None: any object."""


class JsonSchemaFormat(RequestModel):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _any_object() -> dict[str, JsonValue]:
    return {"type": "object"}


class Function(RequestModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: Text | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=_any_object)
    strict: bool | None = None


class Tool(RequestModel):
    type: Literal["function"]
    function: Function
    cache_control: JsonValue = None

    def for_template(self) -> dict[str, Any]:
        """The declaration for a chat template: the fields of the API alone."""
        own = {name: getattr(self.function, name) for name in Function.model_fields}
        return {"type": self.type, "function": {name: value for name, value in own.items() if value is not None}}


class NamedFunction(RequestModel):
    name: Name


class NamedTool(RequestModel):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(RequestModel):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedToolChoice(RequestModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedToolChoice, Field(discriminator="type")]


class Ignored(RequestModel):
    """Fields that clients send and that have no effect on a local model."""

    user: Name | None = None
    store: bool | None = None
    metadata: Annotated[dict[Name, JsonValue], Field(max_length=64)] | None = None
    service_tier: Name | None = None
    safety_identifier: Name | None = None
    prompt_cache_key: Name | None = None
    parallel_tool_calls: bool | None = None


class Sampling(Ignored):
    """The fields of both kinds of completion. Defaults are OpenAI's, except for `temperature`, which is 0."""

    model: Name | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), Whole] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1), Whole] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), Whole] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool = False
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIAS)] | None
    ) = None
    response_format: ResponseFormat | None = None
    guided_regex: Source | None = None
    guided_grammar: Source | None = None
    guided_json: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _at_most_one_grammar(self) -> Sampling:
        forms = [self.guided_regex, self.guided_grammar, self.guided_json]
        given = sum(form is not None for form in forms)
        given += self.response_format is not None and self.response_format.type != "text"
        if given > 1:
            raise ValueError("response_format and guided_* exclude each other: only one may be given")
        if self.logit_bias is not None and not all(key.isascii() and key.isdigit() for key in self.logit_bias):
            raise ValueError("the keys of logit_bias are token ids")
        return self

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def is_seeded(self) -> bool:
        """Whether the answer is drawn by the random numbers of a seed."""
        return self.seed is not None and bool(self.temperature)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage of all its choices."""
        return self.stream_options is not None and self.stream_options.include_usage

    def grammar(self) -> Grammar | None:
        """The grammar of the answer, None for free text; raises UsageError for a source that is no grammar."""
        if self.guided_regex is not None:
            return Grammar("regex", self.guided_regex)
        if self.guided_grammar is not None:
            return Grammar("lark", self.guided_grammar)
        schema = self.guided_json
        if self.response_format is not None and self.response_format.type == "json_object":
            schema = self.response_format.schema_
            if schema is None:
                return ANY_JSON_OBJECT
        if self.response_format is not None and self.response_format.type == "json_schema":
            schema = self.response_format.json_schema.schema_
        return None if schema is None else Grammar("json_schema", json.dumps(schema))

    def sampling_options(
        self, max_new_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None = None,
        grammar: Grammar | None = None,
    ) -> SamplingOptions:  # fmt: skip
        """The runtime's options of the first choice."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingOptions(
            max_new_tokens=max_new_tokens, temperature=float(self.temperature or 0.0), top_k=max(self.top_k or 0, 0),
            top_p=1.0 if self.top_p is None else float(self.top_p), min_p=float(self.min_p or 0.0),
            repetition_penalty=1.0 if self.repetition_penalty is None else float(self.repetition_penalty),
            seed=None if self.seed is None else self.seed % 2**64, stop=stop,
            stop_token_ids=tuple(self.stop_token_ids or ()), ignore_eos=self.ignore_eos,
            presence_penalty=float(self.presence_penalty or 0.0),
            frequency_penalty=float(self.frequency_penalty or 0.0),
            logit_bias=tuple((int(key), float(value)) for key, value in (self.logit_bias or {}).items()),
            logprobs=logprobs, prompt_logprobs=prompt_logprobs, grammar=grammar,
        )  # fmt: skip


class ChatRequest(Sampling):
    """/v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[Annotated[int, Field(ge=1, le=2**31 - 1)] | None, Limit] = None
    max_completion_tokens: Annotated[Annotated[int, Field(ge=1, le=2**31 - 1)] | None, Limit] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), Whole] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    reasoning_effort: Name | None = None
    verbosity: Name | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        names = {tool.function.name for tool in self.tools or []}
        unknown = (self._allowed_names or set()) - names
        if unknown:
            raise ValueError(f"tool_choice names `{min(unknown)}`, a tool that is not in tools")
        if self.forces_a_call and not names:
            raise ValueError("tool_choice asks for a call, and there are no tools")
        if self.forces_a_call and self.grammar() is not None:
            raise ValueError("tool_choice asks for a call, which excludes response_format and guided_*")
        return self

    @property
    def _allowed_names(self) -> set[str] | None:
        """The names that `tool_choice` lists; None where it lists none."""
        if isinstance(self.tool_choice, NamedTool):
            return {self.tool_choice.function.name}
        if isinstance(self.tool_choice, AllowedToolChoice):
            return {tool.function.name for tool in self.tool_choice.allowed_tools.tools}
        return None

    @property
    def forces_a_call(self) -> bool:
        """Whether the answer must be a call."""
        if isinstance(self.tool_choice, AllowedToolChoice):
            return self.tool_choice.allowed_tools.mode == "required"
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def forces_several(self) -> bool:
        """Whether a forced answer may have several calls."""
        return self.parallel_tool_calls is True and not isinstance(self.tool_choice, NamedTool)

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that the answer may call; the prompt shows all tools, unless none may be called."""
        if self.tool_choice == "none":
            return []
        allowed = self._allowed_names
        return [tool for tool in self.tools or [] if allowed is None or tool.function.name in allowed]

    @property
    def template_variables(self) -> dict[str, Any]:
        """The variables of the chat template; `reasoning_effort` is one, and "none" also turns thinking off."""
        effort: dict[str, Any] = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        if self.reasoning_effort == "none":
            effort["enable_thinking"] = False
        return {**effort, **(self.chat_template_kwargs or {})}

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Sampling):
    """/v1/completions; a prompt is a text or token ids, or a list of either."""

    prompt: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKENS)]],
            Field(min_length=1, max_length=MAX_PROMPTS),
        ]
    )
    max_tokens: Annotated[Annotated[int, Field(ge=0, le=2**31 - 1)] | None, Limit] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False
    suffix: None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0, which needs echo")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """A list of prompts, also for a single prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        is_one_prompt = bool(self.prompt) and isinstance(self.prompt[0], int)
        return [self.prompt] if is_one_prompt else list(self.prompt)  # type: ignore[list-item,arg-type]


class TokenizeRequest(RequestModel):
    """A text or a chat."""

    model: Name | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True

    @model_validator(mode="after")
    def _exactly_one_source(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either prompt or messages is needed")
        return self


class DetokenizeRequest(RequestModel):
    model: Name | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS)]


class TemplateRequest(RequestModel):
    model: Name | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, JsonValue] | None = None
