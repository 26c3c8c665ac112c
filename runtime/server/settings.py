"""The server's settings, and the options with which it loads its engine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ovround.errors import UsageError
from ovround.limits import LIMITS
from ovround.runtime.text.tool_formats.registry import tool_format

ENGINE_CHOICES = ("auto", "batching", "single")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and names of one server. Raises UsageError for a number below 1, an unknown parser, or an empty key."""

    model_name: str
    """The name by which clients ask for the model."""
    api_key: str | None = None
    """Key that requests must carry as `Authorization: Bearer ...`; /, /health and /ready need none."""
    max_body_bytes: int = LIMITS.request_body_bytes
    """Size of a request body in bytes; a larger one is refused with 413."""
    max_running: int = 64
    """Number of answers computed at once by the batching engine."""
    max_waiting: int = 256
    """Number of answers that may wait; further requests are refused with 429."""
    request_timeout_s: int = 600
    """Seconds from a request's arrival to its last token; then the answer ends with an error."""
    send_timeout_s: int = 60
    """Seconds that a client may leave a stream unread."""
    tool_parser: str | None = None
    """Format of the model's tool calls; None: that of its chat template."""
    metrics_prefix: str = "ovround_"
    """Prefix of the metrics' names; `vllm:` fits dashboards made for vLLM."""

    strict: bool = False
    """Refusal of unknown request fields, which are else ignored and named once in the log."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may use the server from a browser, or `*`; its own page always may."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(field.default) is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UsageError(f"{field.name} is {value!r}; a whole number of 1 or more is needed")
        if self.tool_parser is not None:
            tool_format(self.tool_parser)
        if self.api_key is not None and not self.api_key:
            raise UsageError("the API key is empty", hint="leave it out for a server that everybody may use")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The engine that is started, and its device. Raises UsageError for an engine that does not exist."""

    engine: str = "auto"
    """`batching`: many answers at once, by openvino_genai; `single`: one at a time, with every request field; or `auto`."""
    device: str = "CPU"
    exact: bool = False
    """Float32 arithmetic."""
    threads: int | None = None
    """CPU threads; None: the engine's own number."""
    cache_gib: int = 0
    """KV cache of the batching engine in GiB; 0: it grows as needed."""
    draft_model: Path | None = None
    """Folder of a smaller model with the same tokenizer, which proposes tokens."""
    prompt_lookup: bool = False
    """Proposals of tokens from the text so far."""
    verify: bool = True
    """Comparison of every byte with the manifest while the model is loaded."""
    kernel: str = "auto"

    def __post_init__(self) -> None:
        if self.engine not in ENGINE_CHOICES:
            raise UsageError(f"engine is `{self.engine}`; allowed: {', '.join(ENGINE_CHOICES)}")
