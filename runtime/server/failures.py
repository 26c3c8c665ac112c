"""Which status and which words an error has over HTTP."""

from __future__ import annotations

from typing import Any

from ovround.errors import (
    ArtifactError,
    BusyError,
    EngineError,
    GenerationError,
    MissingExtraError,
    OvroundError,
    UsageError,
)
from ovround.runtime.server.dispatch import RequestCancelledError, TimeLimitError
from ovround.runtime.server.engine_process import EngineLostError
from ovround.runtime.server.responses import error_object


class UnknownModelError(OvroundError):
    """A request names a model that is not served."""


_KINDS: tuple[tuple[type[OvroundError], int, str], ...] = (
    (UnknownModelError, 404, "invalid_request_error"),
    (BusyError, 429, "rate_limit_error"),
    (TimeLimitError, 504, "timeout_error"),
    (RequestCancelledError, 499, "cancelled"),
    (UsageError, 400, "invalid_request_error"),
    (GenerationError, 400, "invalid_request_error"),
    (MissingExtraError, 501, "not_implemented"),
    (ArtifactError, 503, "server_error"),
    (EngineLostError, 503, "server_error"),
    (EngineError, 500, "server_error"),
)


def failure(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status, and the body in OpenAI's form."""
    message = str(error)
    if isinstance(error, OvroundError) and error.hint:
        message += f" ({error.hint})"
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            code = "model_not_found" if status == 404 else None
            if isinstance(error, GenerationError) and "context" in message:
                code = "context_length_exceeded"
            return status, error_object(message, name, code)
    return 500, error_object("the server failed", "server_error")
