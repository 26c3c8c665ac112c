"""The generation loop: prefill, choose, decode, choose, ... It knows token ids only; text is `text_stream.py`'s."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ovround.errors import GenerationError
from ovround.runtime.engine import Engine
from ovround.runtime.random_source import Xoshiro256
from ovround.runtime.sampling import SamplingOptions, sample

FinishReason = Literal["stop", "length"]
"""stop: an end token or a stop string; length: max_new_tokens or the context is used up."""


@dataclass(slots=True)
class Request:
    """One request's state. Times are seconds of work since the loop began, without the caller's between steps."""

    prompt_ids: list[int]
    options: SamplingOptions
    max_new_tokens: int
    end_token_ids: frozenset[int]
    source: Xoshiro256
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    first_token_s: float = 0.0
    last_token_s: float = 0.0

    def accept(self, token_id: int) -> None:
        """Append a token, an end token included, and see whether it is the last one."""
        self.token_ids.append(token_id)
        if token_id in self.end_token_ids:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.max_new_tokens:
            self.finish_reason = "length"


def admit(
    prompt_ids: Sequence[int], options: SamplingOptions, context_length: int, end_token_ids: Iterable[int]
) -> Request:
    """A request that fits the context; raises GenerationError, with both numbers, for one that does not."""
    prompt = len(prompt_ids)
    if not prompt:
        raise GenerationError("the prompt has no tokens", hint="give some text")
    wanted = 1 if options.max_new_tokens is None else options.max_new_tokens
    if prompt + wanted > context_length:
        new = "at least 1 new token" if options.max_new_tokens is None else f"max_new_tokens {wanted}"
        raise GenerationError(
            f"a prompt of {prompt} tokens and {new} make {prompt + wanted}; the model's context is {context_length}",
            hint="shorten the prompt" + ("" if options.max_new_tokens is None else ", or lower max_new_tokens"),
        )
    limit = context_length - prompt if options.max_new_tokens is None else options.max_new_tokens
    ends = set(options.stop_token_ids) | (set() if options.ignore_eos else set(end_token_ids))
    return Request(list(prompt_ids), options, limit, frozenset(ends), options.random_source())


def run(engine: Engine, requests: Sequence[Request]) -> Iterator[list[Request]]:
    """Run a batch until every request has a finish_reason; each step yields the requests that just got a token.

    The caller may set finish_reason between steps (a stop string was found). Leaving early is closing the iterator.
    """
    started = time.perf_counter()
    work_s = 0.0
    engine.reset()
    rows = list(requests)
    logits = engine.prefill([request.prompt_ids for request in rows])
    while True:
        for row, request in zip(logits, rows, strict=True):
            seen = [] if request.options.repetition_penalty == 1.0 else request.prompt_ids + request.token_ids
            request.accept(sample(row, seen, request.options, request.source))
        work_s += time.perf_counter() - started
        for request in rows:
            request.last_token_s = work_s
            if len(request.token_ids) == 1:
                request.first_token_s = work_s
        yield rows
        started = time.perf_counter()
        alive = [place for place, request in enumerate(rows) if request.finish_reason is None]
        if not alive:
            return
        if len(alive) < len(rows):
            engine.keep(alive)
            rows = [rows[place] for place in alive]
        logits = engine.decode([request.token_ids[-1] for request in rows])
