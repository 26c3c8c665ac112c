"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ovround.errors import UsageError
from ovround.limits import LIMITS


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Raises UsageError for a number below its least, which is 1."""

    model_name: str
    """What clients call the model."""
    api_key: str | None = None
    """When given, requests must carry it: `Authorization: Bearer ...`; /health and /ready need none."""
    max_body_bytes: int = LIMITS.request_body_bytes
    """Larger request bodies are refused with 413."""
    max_running: int = 64
    """Most answers computed at once, where the engine batches."""
    max_waiting: int = 256
    """Most answers that wait; beyond them requests are refused with 429."""
    request_timeout_s: int = 600
    """Seconds from a request's arrival to its last token; then it is ended with an error."""
    send_timeout_s: int = 60
    """Seconds that a client may leave a stream unread."""
    metrics_prefix: str = "ovround_"
    """`vllm:` gives dashboards that were made for vLLM the names that they look for."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, int) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UsageError(f"{field.name} is {value!r}; a whole number of 1 or more is needed")
        if self.api_key is not None and not self.api_key:
            raise UsageError("the API key is empty", hint="leave it out for a server that everybody may use")
