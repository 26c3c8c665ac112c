"""What went wrong with a request, and its object in the form and the words of the protocol of its route."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP status, and what OpenAI's error object says."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None

    def body(self, path: str) -> dict[str, Any]:
        """The object for a client of the route `path`."""
        return _protocol(path).body(self)

    def in_words_of(self, path: str) -> Failure:
        """The failure of a request that was translated into a chat: each field has the name that the client gave it."""
        names = _protocol(path).names
        param = names.get(self.param or "", self.param)
        message = self.message
        for name, own in names.items():
            before = r"\b" if "_" in name else "`"  # a word of the language stays, unless it is quoted
            message = re.sub(rf"({before}){name}\b", lambda found, own=own: found[1] + own, message)  # type: ignore[misc]
        return replace(self, message=message, param=param)


@dataclass(frozen=True, slots=True)
class _Protocol:
    body: Callable[[Failure], dict[str, Any]]
    names: Mapping[str, str] = field(default_factory=dict)
    """The protocol's name of a field of chat completions, where it differs."""


def _protocol(path: str) -> _Protocol:
    return next((form for prefix, form in _PROTOCOLS.items() if path.startswith(prefix)), _COMPLETIONS)


def _openai_body(failure: Failure) -> dict[str, Any]:
    error = {"message": failure.message, "type": failure.kind, "param": failure.param, "code": failure.code}
    return {"error": error}


def _anthropic_body(failure: Failure) -> dict[str, Any]:
    kind = _ANTHROPIC_KINDS.get(failure.status)
    if kind is None:
        kind = "invalid_request_error" if failure.status < 500 else "api_error"
    return {"type": "error", "error": {"type": kind, "message": failure.message}}


_ANTHROPIC_KINDS = {
    401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
    503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
_COMPLETIONS = _Protocol(_openai_body)
_PROTOCOLS = {
    "/v1/responses": _Protocol(
        _openai_body,
        {"max_tokens": "max_output_tokens", "response_format": "text.format", "logprobs": "include", "messages": "input",
         "reasoning_effort": "reasoning.effort"},
    ),
    "/v1/messages": _Protocol(
        _anthropic_body,
        {"response_format": "output_config.format", "stop": "stop_sequences", "reasoning_effort": "output_config.effort"},
    ),
}  # fmt: skip
