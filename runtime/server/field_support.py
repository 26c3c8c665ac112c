"""The request fields that only one engine serves. The single engine serves every field; batching refuses some with 400.

A request never changes the engine: the answer names the start option with which the server can serve the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ovround.errors import UsageError
from ovround.runtime.server.engine_choice import EngineName
from ovround.runtime.server.protocol import ChatRequest, CompletionRequest

GenerationRequest = ChatRequest | CompletionRequest


class FieldError(UsageError):
    """A request field that cannot be served; `param` is its name, `code` OpenAI's for the reason."""

    def __init__(
        self, param: str | None, message: str, *, hint: str | None = None, code: str | None = "unsupported_parameter"
    ) -> None:
        super().__init__(message, hint=hint)
        self.param, self.code = param, code


@dataclass(frozen=True, slots=True)
class SingleOnlyField:
    """A field that the batching engine cannot serve."""

    reason: str
    is_used: Callable[[GenerationRequest], bool]
    """Whether a request asks for more than the field's neutral value."""


_UNCONSTRAINED = "openvino_genai may leave an answer unconstrained without an error"


SINGLE_ONLY_FIELDS: Mapping[str, SingleOnlyField] = {
    "logprobs": SingleOnlyField(
        "openvino_genai has no alternatives at a token and no log-probabilities of prompts",
        lambda body: body.logprobs is not None and body.logprobs is not False,
    ),
    "logit_bias": SingleOnlyField("openvino_genai has no bias for single tokens", lambda body: bool(body.logit_bias)),
    "response_format": SingleOnlyField(
        _UNCONSTRAINED, lambda body: body.response_format is not None and body.response_format.type != "text"
    ),
    "guided_regex": SingleOnlyField(_UNCONSTRAINED, lambda body: body.guided_regex is not None),
    "guided_grammar": SingleOnlyField(_UNCONSTRAINED, lambda body: body.guided_grammar is not None),
    "guided_json": SingleOnlyField(_UNCONSTRAINED, lambda body: body.guided_json is not None),
    "tool_choice": SingleOnlyField(_UNCONSTRAINED, lambda body: isinstance(body, ChatRequest) and body.forces_a_call),
}


def check_fields(body: GenerationRequest, engine: EngineName) -> None:
    """Raise FieldError for a field that the started engine cannot serve."""
    if engine == "single":
        return
    for name, field in SINGLE_ONLY_FIELDS.items():
        if field.is_used(body):
            raise FieldError(
                name,
                f"the batching engine of this server cannot serve `{name}`: {field.reason}",
                hint="start the server with `--engine single`",
            )
