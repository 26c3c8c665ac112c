"""What the server and its engine's process say to each other: one JSON object a line.

To the engine: its settings first, then `{"begin": Order}` and `{"cancel": id}`. The end of its input ends it.
From the engine: `{"loaded": slots}` or `{"refused": error}` first, then

    {"alive": steps, "busy": bool}              every second, also while it computes
    {"began": id}                               it has a slot
    {"tokens": [[id, [token, ...], ended], ...], "usage": share}
    {"piece": [id, piece], "usage": share}      text made there
    {"failed": [id, error]}                     and ended
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
    """What an engine's process opens, and how; see `LLM` and openvino_genai's ContinuousBatchingPipeline."""

    folder: str
    batching: bool
    """Many answers at once, by openvino_genai; else one at a time by our own loop."""
    device: str = "CPU"
    exact: bool = False
    threads: int | None = None
    slots: int = 64
    cache_gib: int = 0
    """Of the KV cache where it batches; 0: as it is needed."""
    cache_blocks: int = 0
    """The same in blocks of the pipeline, where a GiB is too much."""
    extension: str | None = None
    """The library of the folder's own operators, where it batches."""
    prompt_lookup: bool = False
    draft_model: str | None = None
    verify_draft: bool = True
    kernel: str = "auto"


@dataclass(frozen=True, slots=True)
class Order:
    """A job as the engine sees it."""

    number: int
    """Its own, in one server."""
    prompt_ids: Sequence[int]
    """Token ids, at least one."""
    options: SamplingOptions
    max_new_tokens: int
    """As many as the options and the context leave."""
    end_token_ids: Sequence[int]


def order_to_json(order: Order) -> Json:
    return {
        "number": order.number, "prompt_ids": list(order.prompt_ids), "options": _options_to_json(order.options),
        "max_new_tokens": order.max_new_tokens, "end_token_ids": list(order.end_token_ids),
    }  # fmt: skip


def order_from_json(found: Json) -> Order:
    return Order(**{**found, "options": _options_from_json(found["options"])})


def error_to_json(error: Exception) -> Json:
    """What is no error of ours is one of the engine."""
    if isinstance(error, OvroundError):
        return {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
    return {"kind": "EngineError", "message": f"the engine failed: {last_line(error)}", "hint": None}


def error_from_json(found: Json) -> OvroundError:
    kind = getattr(errors, found["kind"], EngineError)
    error: OvroundError = kind.__new__(kind)  # some kinds make their message of other arguments
    OvroundError.__init__(error, found["message"], hint=found["hint"])
    return error


def last_line(error: Exception) -> str:
    """What an OpenVINO message says last; before it stands where in its sources it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def piece_to_json(piece: Piece) -> list[Any]:
    return [
        piece.text, piece.token_id, piece.finish_reason, _values(piece.usage), _values(piece.timings),
        _values(piece.logprobs), None if piece.prompt_logprobs is None else [_values(one) for one in piece.prompt_logprobs],
    ]  # fmt: skip


def piece_from_json(found: list[Any]) -> Piece:
    text, token_id, reason, usage, timings, logprobs, of_prompt = found
    return Piece(
        text, token_id, reason, Usage(*usage) if usage else None, Timings(*timings) if timings else None,
        _logprobs(logprobs) if logprobs else None,
        None if of_prompt is None else tuple(_logprobs(one) for one in of_prompt),
    )  # fmt: skip


def _values(record: Any) -> list[Any] | None:
    return None if record is None else [getattr(record, field.name) for field in fields(record)]


def _logprobs(found: list[Any]) -> TokenLogprobs:
    token_id, logprob, top = found
    return TokenLogprobs(token_id, logprob, tuple((token, value) for token, value in top))


def _options_to_json(options: SamplingOptions) -> Json:
    """Those that are not the default."""
    chosen = {field.name: getattr(options, field.name) for field in fields(options)}
    chosen = {name: value for name, value in chosen.items() if value != _DEFAULTS[name]}
    if options.grammar is not None:
        chosen["grammar"] = [options.grammar.kind, options.grammar.source]
    return chosen


def _options_from_json(found: Json) -> SamplingOptions:
    chosen = dict(found)
    for name in ("stop", "stop_token_ids"):
        chosen[name] = tuple(found.get(name, ()))
    chosen["logit_bias"] = tuple((token, bias) for token, bias in found.get("logit_bias", ()))
    if "grammar" in found:
        chosen["grammar"] = Grammar(*found["grammar"])
    return SamplingOptions(**chosen)


_DEFAULTS = {field.name: field.default for field in fields(SamplingOptions)}
