"""HTTP status and body of each error, in OpenAI's form."""

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
from ovround.runtime.server.engine_client import RequestCancelledError, TimeLimitError
from ovround.runtime.server.engine_supervisor import EngineLostError
from ovround.runtime.server.field_support import UnsupportedFieldError
from ovround.runtime.server.responses import error_object
from ovround.runtime.server.served_model import UnknownModelError

_STATUS_AND_TYPE: tuple[tuple[type[OvroundError], int, str], ...] = (
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


def error_response(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body; 500 without details for what is no OvroundError."""
    message = str(error)
    if isinstance(error, OvroundError) and error.hint:
        message += f" ({error.hint})"
    message = message.replace("max_new_tokens", "max_tokens")  # the API's name of the field
    if isinstance(error, UnsupportedFieldError):
        return 400, error_object(message, "invalid_request_error", "unsupported_parameter", error.param)
    for kind, status, type_name in _STATUS_AND_TYPE:
        if isinstance(error, kind):
            code = "model_not_found" if status == 404 else None
            if isinstance(error, GenerationError) and "context" in message:
                code = "context_length_exceeded"
            return status, error_object(message, type_name, code)
    return 500, error_object("the server failed", "server_error")
