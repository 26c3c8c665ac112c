"""HTTP status and words of each error."""

from __future__ import annotations

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
from ovround.runtime.server.failure import Failure
from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.responses_api.store import UnknownResponseError
from ovround.runtime.server.served_model import UnknownModelError

_STATUS_AND_KIND: tuple[tuple[type[OvroundError], int, str], ...] = (
    (UnknownModelError, 404, "invalid_request_error"),
    (UnknownResponseError, 404, "invalid_request_error"),
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


def failure_of(error: Exception) -> Failure:
    """The failure that an error is; 500 without details for what is no OvroundError."""
    message = str(error)
    if isinstance(error, OvroundError) and error.hint:
        message += f" ({error.hint})"
    message = message.replace("max_new_tokens", "max_tokens")  # the API's name of the field
    if isinstance(error, FieldError):
        return Failure(400, message, code=error.code, param=error.param)
    for of_error, status, kind in _STATUS_AND_KIND:
        if isinstance(error, of_error):
            code = "model_not_found" if isinstance(error, UnknownModelError) else None
            if isinstance(error, GenerationError) and "context" in message:
                code = "context_length_exceeded"
            return Failure(status, message, kind, code)
    return Failure(500, "the server failed", "server_error")
