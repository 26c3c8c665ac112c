"""The generation loop: prefill, choose, decode, choose, ... It knows token ids only; text is `text_stream.py`'s.

Two loops give the same tokens: `run_batch` for rows side by side, `run_row` for one request on a cache that is kept, with
guesses that are judged in one step.
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

_GREEDY_TOKENS = 8  # that an engine chooses before the host looks: what follows an end is thrown away
FinishReason = Literal["stop", "length", "cancelled"]
"""stop: an end token, a stop string, or the grammar's end; length: max_new_tokens or the context is used up."""


@dataclass(slots=True)
class Request:
    """One request's state. Times are seconds of work since the loop began, without the caller's between steps."""

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
    def plainly_greedy(self) -> bool:
        """Whether the likeliest token is all that is ever asked of logits."""
        o = self.options
        bent = o.temperature or o.presence_penalty or o.frequency_penalty or o.logit_bias or o.repetition_penalty != 1
        return not bent and o.logprobs is None and self.matcher is None

    def choose(self, logits: Logits) -> int:
        """Append the token that follows, of logits `[V]`, an end token included, and see whether it is the last one."""
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
        """Append a token and see whether it is the last one."""
        self.token_ids.append(token_id)
        if token_id in self.end_token_ids or (self.matcher is not None and self.matcher.ended):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.max_new_tokens:
            self.finish_reason = "length"

    def note_time(self, work_s: float) -> None:
        """The newest token came after `work_s` seconds of work."""
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
    return Request(list(prompt_ids), options, limit, frozenset(ends), options.random_source(), matcher)


def run_batch(engine: Engine, requests: Sequence[Request]) -> Iterator[list[Request]]:
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
            request.choose(row)
        work_s += time.perf_counter() - started
        for request in rows:
            request.note_time(work_s)
        yield rows
        started = time.perf_counter()
        alive = [place for place, request in enumerate(rows) if request.finish_reason is None]
        if not alive:
            return
        if len(alive) < len(rows):
            engine.keep(alive)
            rows = [rows[place] for place in alive]
        if isinstance(engine, GreedyDecoder) and all(request.plainly_greedy for request in rows):
            yield from _greedy_batch(engine, rows, work_s)
            return
        logits = engine.decode([request.token_ids[-1] for request in rows])


def run_row(
    row: KVCacheSlot, request: Request, proposer: Proposer | None = None, draft_tokens: int = DRAFT_TOKENS
) -> Iterator[Request]:
    """Run one request on `row`, which keeps its tokens; yields at each token, as `run_batch` does.

    What the row already holds of the prompt is not computed again, unless its logits are asked for.
    """
    started = time.perf_counter()
    work_s = 0.0
    logits = _prompt_logits(row, request)[None]
    guesses: list[int] = []
    while True:
        for place, following in enumerate(logits):
            token = request.choose(following)
            work_s += time.perf_counter() - started
            request.note_time(work_s)
            hit = place < len(guesses) and token == guesses[place]
            request.accepted_tokens += hit
            yield request
            started = time.perf_counter()
            if request.finish_reason is not None or not hit:
                break
        row.rewind(len(request.prompt_ids) + len(request.token_ids) - 1)  # guesses that did not stand
        if request.finish_reason is not None:
            return
        if proposer is None and isinstance(row.engine, GreedyDecoder) and request.plainly_greedy:
            yield from _greedy_row(row, request, work_s)
            return
        room = request.max_new_tokens - len(request.token_ids) - 1  # the model's own token comes after the guesses
        guesses = proposer.propose(request.prompt_ids + request.token_ids, min(draft_tokens, room)) if proposer else []
        request.drafted_tokens += len(guesses)
        logits = row.append([request.token_ids[-1], *guesses])


def _greedy_batch(engine: GreedyDecoder, rows: list[Request], work_s: float) -> Iterator[list[Request]]:
    """Go on as `run_batch` does, several tokens at a time, by choices that the engine makes itself."""
    while rows:
        started = time.perf_counter()
        count = min(_GREEDY_TOKENS, *(request.max_new_tokens - len(request.token_ids) for request in rows))
        chosen = engine.decode_greedy([request.token_ids[-1] for request in rows], count)
        work_s += time.perf_counter() - started
        for tokens in chosen.T:
            going = [place for place, request in enumerate(rows) if request.finish_reason is None]
            for place in going:
                rows[place].accept(int(tokens[place]))
                rows[place].note_time(work_s)
            if going:
                yield [rows[place] for place in going]
        alive = [place for place, request in enumerate(rows) if request.finish_reason is None]
        if alive and len(alive) < len(rows):
            engine.keep(alive)
        rows = [rows[place] for place in alive]


def _greedy_row(row: KVCacheSlot, request: Request, work_s: float) -> Iterator[Request]:
    """Go on as `run_row` does, several tokens at a time, by choices that the engine makes itself."""
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
    row.rewind(len(request.prompt_ids) + len(request.token_ids) - 1)  # choices behind the end


def _prompt_logits(row: KVCacheSlot, request: Request) -> Logits:
    """Logits `[V]` of what follows the prompt."""
    prompt, count = request.prompt_ids, request.options.prompt_logprobs
    if count is None:
        logits, request.cached_tokens = row.start(prompt)
        return logits
    logits, scored = row.start_scored(prompt, count)
    request.prompt_logprobs = list(scored)
    return logits
