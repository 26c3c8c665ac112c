"""The messages between the server and its engine's process: one JSON object per line.

To the engine: its settings first, then `{"begin": EngineRequest}` and `{"cancel": id}`. It ends at the end of its input.
From the engine: `{"loaded": slots, "kernel": kernel}` or `{"refused": error}` first, then

    {"alive": steps, "busy": bool}              heartbeat, every second, also during a step
    {"began": id}                               the request has a slot
    {"tokens": [[id, [token, ...], ended], ...], "usage": share}
    {"piece": [id, piece], "usage": share}      text of the single engine
    {"failed": [id, error]}                     the answer has ended with an error
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ovround import errors
from ovround.errors import EngineError, OvroundError
from ovround.runtime.decoding.completion import Piece, Timings, Usage
from ovround.runtime.decoding.grammar import Grammar
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.decoding.sampling import SamplingOptions

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The folder that an engine's process loads, and its options; see `LLM` and openvino_genai's ContinuousBatchingPipeline."""

    folder: str
    batching: bool
    """True: many answers at once, by openvino_genai; False: one at a time, by our own loop."""
    device: str = "CPU"
    exact: bool = False
    threads: int | None = None
    slots: int = 64
    cache_gib: int = 0
    """KV cache of the batching engine in GiB; 0: it grows as needed."""
    cache_blocks: int = 0
    """KV cache in blocks of the pipeline, for caches smaller than a GiB; 0: `cache_gib` counts."""
    extension: str | None = None
    """Library of the folder's own operators, for the batching engine."""
    prompt_lookup: bool = False
    draft_model: str | None = None
    verify_draft: bool = True
    kernel: str = "auto"


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A job as the engine knows it."""

    number: int
    """Unique in one server."""
    prompt_ids: Sequence[int]
    """Token ids, at least one."""
    options: SamplingOptions
    max_new_tokens: int
    """Limit of the options and of the context."""
    end_token_ids: Sequence[int]


def request_to_json(request: EngineRequest) -> Json:
    return {
        "number": request.number, "prompt_ids": list(request.prompt_ids), "options": _options_to_json(request.options),
        "max_new_tokens": request.max_new_tokens, "end_token_ids": list(request.end_token_ids),
    }  # fmt: skip


def request_from_json(message: Json) -> EngineRequest:
    return EngineRequest(**{**message, "options": _options_from_json(message["options"])})


def error_to_json(error: Exception) -> Json:
    """Kind, message and hint; an error that is no OvroundError becomes an EngineError."""
    if isinstance(error, OvroundError):
        return {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
    return {"kind": "EngineError", "message": f"the engine failed: {last_line(error)}", "hint": None}


def error_from_json(message: Json) -> OvroundError:
    kind = getattr(errors, message["kind"], EngineError)
    error: OvroundError = kind.__new__(kind)  # some classes build their message from other arguments
    OvroundError.__init__(error, message["message"], hint=message["hint"])
    return error


def last_line(error: Exception) -> str:
    """The last line of an OpenVINO message; the lines before it name places in OpenVINO's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def piece_to_json(piece: Piece) -> list[Any]:
    return [
        piece.text, piece.token_id, piece.finish_reason, _values(piece.usage), _values(piece.timings),
        _values(piece.logprobs), None if piece.prompt_logprobs is None else [_values(token) for token in piece.prompt_logprobs],
        piece.stop_string,
    ]  # fmt: skip


def piece_from_json(values: list[Any]) -> Piece:
    text, token_id, reason, usage, timings, logprobs, prompt_logprobs, stop_string = values
    return Piece(
        text, token_id, reason, Usage(*usage) if usage else None, Timings(*timings) if timings else None,
        _logprobs(logprobs) if logprobs else None,
        None if prompt_logprobs is None else tuple(_logprobs(token) for token in prompt_logprobs), stop_string,
    )  # fmt: skip


def _values(record: Any) -> list[Any] | None:
    return None if record is None else [getattr(record, field.name) for field in fields(record)]


def _logprobs(values: list[Any]) -> TokenLogprobs:
    token_id, logprob, top = values
    return TokenLogprobs(token_id, logprob, tuple((token, value) for token, value in top))


def _options_to_json(options: SamplingOptions) -> Json:
    """The options that differ from their defaults."""
    chosen = {field.name: getattr(options, field.name) for field in fields(options)}
    chosen = {name: value for name, value in chosen.items() if value != _DEFAULTS[name]}
    if options.grammar is not None:
        chosen["grammar"] = [options.grammar.kind, options.grammar.source]
    return chosen


def _options_from_json(values: Json) -> SamplingOptions:
    chosen = dict(values)
    for name in ("stop", "stop_token_ids"):
        chosen[name] = tuple(values.get(name, ()))
    for name in ("logit_bias", "shown_tokens"):
        chosen[name] = tuple((token, value) for token, value in values.get(name, ()))
    if "grammar" in values:
        chosen["grammar"] = Grammar(*values["grammar"])
    return SamplingOptions(**chosen)


_DEFAULTS = {field.name: field.default for field in fields(SamplingOptions)}
