"""The generation loop: prefill, choose, decode, choose, ... It knows token ids only; `text_stream.py` knows text.

Two loops give the same tokens: `run_batch` for several requests side by side, `run_row` for one request that keeps its cache
and may use speculative decoding.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ovround.errors import GenerationError
from ovround.runtime.decoding.grammar import Matcher
from ovround.runtime.decoding.kv_cache_slot import KVCacheSlot
from ovround.runtime.decoding.logprobs import TokenLogprobs, token_logprobs
from ovround.runtime.decoding.random_source import Xoshiro256
from ovround.runtime.decoding.sampling import SamplingOptions, adjust, sample
from ovround.runtime.decoding.speculation import DRAFT_TOKENS, Proposer
from ovround.runtime.engine import Engine, GreedyDecoder, Logits

_GREEDY_TOKENS = 8  # chosen by an engine per call; tokens after an end token are discarded
FinishReason = Literal["stop", "length", "cancelled"]
"""stop: end token, stop string, or end of the grammar; length: max_new_tokens or the context is exhausted."""


@dataclass(slots=True)
class Request:
    """One request's state. Times are seconds of computation since the loop began, without the caller's time between steps."""

    prompt_ids: list[int]
    options: SamplingOptions
    max_new_tokens: int
    end_token_ids: frozenset[int]
    source: Xoshiro256
    matcher: Matcher | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    first_token_s: float = 0.0
    last_token_s: float = 0.0

    @property
    def is_plain_greedy(self) -> bool:
        """Whether every token is the argmax of the logits, and nothing else is needed of them."""
        o = self.options
        adjusted = (
            o.temperature or o.presence_penalty or o.frequency_penalty or o.logit_bias or o.repetition_penalty != 1
        )
        return not adjusted and o.logprobs is None and self.matcher is None

    def choose(self, logits: Logits) -> int:
        """Choose the next token from logits `[V]`, append it (also an end token), and set `finish_reason` at the end."""
        options = self.options
        scores = adjust(logits, self.token_ids, options)
        if self.matcher is not None:
            scores = np.where(self.matcher.allowed(), scores, -np.inf).astype(np.float32)
        seen = [] if options.repetition_penalty == 1.0 else self.prompt_ids + self.token_ids
        token = sample(scores, seen, options, self.source)
        if options.logprobs is not None:
            self.logprobs.append(token_logprobs(logits, token, options.logprobs))
        if self.matcher is not None:
            self.matcher.accept(token)
        self.accept(token)
        return token

    def accept(self, token_id: int) -> None:
        """Append a token, and set `finish_reason` if it is the last one."""
        self.token_ids.append(token_id)
        if token_id in self.end_token_ids or (self.matcher is not None and self.matcher.ended):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.max_new_tokens:
            self.finish_reason = "length"

    def note_time(self, work_s: float) -> None:
        """Record that the newest token came after `work_s` seconds of computation."""
        self.last_token_s = work_s
        if len(self.token_ids) == 1:
            self.first_token_s = work_s


def admit(
    prompt_ids: Sequence[int],
    options: SamplingOptions,
    context_length: int,
    end_token_ids: Iterable[int],
    matcher: Matcher | None = None,
) -> Request:
    """A new request; raises GenerationError, with both numbers, for one that does not fit the context."""
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
    return Request(list(prompt_ids), options, limit, frozenset(ends), options.random_source(), matcher)


def run_batch(engine: Engine, requests: Sequence[Request]) -> Iterator[list[Request]]:
    """Run a batch until every request has a finish_reason; each step yields the requests with a new token.

    The caller may set finish_reason between steps, after a stop string. Closing the iterator ends the batch early.
    """
    started = time.perf_counter()
    work_s = 0.0
    engine.reset()
    rows = list(requests)
    logits = engine.prefill([request.prompt_ids for request in rows])
    while True:
        for row, request in zip(logits, rows, strict=True):
            request.choose(row)
        work_s += time.perf_counter() - started
        for request in rows:
            request.note_time(work_s)
        yield rows
        started = time.perf_counter()
        unfinished = [index for index, request in enumerate(rows) if request.finish_reason is None]
        if not unfinished:
            return
        if len(unfinished) < len(rows):
            engine.keep(unfinished)
            rows = [rows[index] for index in unfinished]
        if isinstance(engine, GreedyDecoder) and all(request.is_plain_greedy for request in rows):
            yield from _greedy_batch(engine, rows, work_s)
            return
        logits = engine.decode([request.token_ids[-1] for request in rows])


def run_row(
    row: KVCacheSlot, request: Request, proposer: Proposer | None = None, draft_tokens: int = DRAFT_TOKENS
) -> Iterator[Request]:
    """Run one request on `row`, which keeps its tokens; yields after each token, like `run_batch`.

    Tokens of the prompt that the row already holds are not computed again, unless prompt_logprobs are requested.
    """
    started = time.perf_counter()
    work_s = 0.0
    logits = _prompt_logits(row, request)[None]
    proposed: list[int] = []
    while True:
        for index, following in enumerate(logits):
            token = request.choose(following)
            work_s += time.perf_counter() - started
            request.note_time(work_s)
            accepted = index < len(proposed) and token == proposed[index]
            request.accepted_tokens += accepted
            yield request
            started = time.perf_counter()
            if request.finish_reason is not None or not accepted:
                break
        row.rewind(len(request.prompt_ids) + len(request.token_ids) - 1)  # drops rejected tokens
        if request.finish_reason is not None:
            return
        if proposer is None and isinstance(row.engine, GreedyDecoder) and request.is_plain_greedy:
            yield from _greedy_row(row, request, work_s)
            return
        room = request.max_new_tokens - len(request.token_ids) - 1  # the model's own token follows the proposed ones
        proposed = proposer.propose(request.prompt_ids + request.token_ids, min(draft_tokens, room)) if proposer else []
        request.drafted_tokens += len(proposed)
        logits = row.append([request.token_ids[-1], *proposed])


def _greedy_batch(engine: GreedyDecoder, rows: list[Request], work_s: float) -> Iterator[list[Request]]:
    """Continue `run_batch` with several tokens per call, which the engine chooses itself."""
    while rows:
        started = time.perf_counter()
        count = min(_GREEDY_TOKENS, *(request.max_new_tokens - len(request.token_ids) for request in rows))
        chosen = engine.decode_greedy([request.token_ids[-1] for request in rows], count)
        work_s += time.perf_counter() - started
        for tokens in chosen.T:
            running = [index for index, request in enumerate(rows) if request.finish_reason is None]
            for index in running:
                rows[index].accept(int(tokens[index]))
                rows[index].note_time(work_s)
            if running:
                yield [rows[index] for index in running]
        unfinished = [index for index, request in enumerate(rows) if request.finish_reason is None]
        if unfinished and len(unfinished) < len(rows):
            engine.keep(unfinished)
        rows = [rows[index] for index in unfinished]


def _greedy_row(row: KVCacheSlot, request: Request, work_s: float) -> Iterator[Request]:
    """Continue `run_row` with several tokens per call, which the engine chooses itself."""
    while request.finish_reason is None:
        started = time.perf_counter()
        count = min(_GREEDY_TOKENS, request.max_new_tokens - len(request.token_ids))
        chosen = row.append_greedy(request.token_ids[-1], count)
        work_s += time.perf_counter() - started
        for token in chosen:
            request.accept(token)
            request.note_time(work_s)
            yield request
            if request.finish_reason is not None:
                break
    row.rewind(len(request.prompt_ids) + len(request.token_ids) - 1)  # drops tokens after the end


def _prompt_logits(row: KVCacheSlot, request: Request) -> Logits:
    """Logits `[V]` after the prompt."""
    prompt, count = request.prompt_ids, request.options.prompt_logprobs
    if count is None:
        logits, request.cached_tokens = row.start(prompt)
        return logits
    logits, scored = row.start_scored(prompt, count)
    request.prompt_logprobs = list(scored)
    return logits
