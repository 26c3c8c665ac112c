"""The choice of the next token from logits. docs/concepts/sampling.md is the specification."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ovround.errors import GenerationError, UsageError
from ovround.runtime.decoding.grammar import Grammar
from ovround.runtime.decoding.random_source import Xoshiro256
from ovround.runtime.engine import Logits

MAX_STOP_STRINGS = 64
MAX_LOGPROBS = 100
MAX_LOGIT_BIAS = 1024
MAX_BEAMS = 64


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """One request's options. UsageError names a wrong field, its value, and the allowed range."""

    max_new_tokens: int | None = None
    """Number of new tokens at most, 1 or more; None: until an end token or the end of the context."""
    temperature: float = 0.0
    """0: the likeliest token (greedy); up to 100: more varied."""
    top_k: int = 0
    """Number of likeliest tokens to draw from; 0: no limit."""
    top_p: float = 1.0
    """Sum of probabilities of the likeliest tokens to draw from, above 0; 1: no limit."""
    min_p: float = 0.0
    """Least probability of a token, relative to the likeliest one; 0 to 1."""
    repetition_penalty: float = 1.0
    """Penalty of tokens that are in the prompt or the answer: above 1 makes them less likely; above 0, up to 10."""
    seed: int | None = None
    """Seed of the random numbers, 0 to 2**64 - 1; None: a new one for each request."""
    stop: tuple[str, ...] = ()
    """Strings before which the answer ends."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens after which the answer ends, in addition to the model's end tokens."""
    ignore_eos: bool = False
    """Whether the answer continues after the model's end tokens; for benchmarks."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token that is in the answer; -10 to 10."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once per occurrence in the answer; -10 to 10."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids and the numbers added to their logits, -100 to 100; as a keyword also a mapping."""
    logprobs: int | None = None
    """Number of likeliest tokens listed with each token's log-probability, 0 to 100; None: no log-probabilities."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens after the first."""
    grammar: Grammar | None = None
    """Grammar of the answer; needs the extra `grammar`."""
    shown_tokens: tuple[tuple[int, str], ...] = ()
    """Ids of special tokens that the answer's text shows, and their texts; others are left out."""
    num_beams: int = 1
    """Number of beams of a greedy beam search; 1: no beam search. The answer is known only at its end."""
    length_penalty: float = 1.0
    """Power of the length by which a beam's sum of log-probabilities is divided; -10 to 10."""

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None:
            _check_integer("max_new_tokens", self.max_new_tokens, 1, None)
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_integer("top_k", self.top_k, 0, None)
        _check_number("top_p", self.top_p, 0.0, 1.0, above=True)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, 10.0, above=True)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, 2**64 - 1)
        _check_stop(self.stop)
        if not isinstance(self.stop_token_ids, tuple):
            raise UsageError(f"stop_token_ids is {self.stop_token_ids!r}; a tuple of token ids is needed")
        for token in self.stop_token_ids:
            _check_integer("stop_token_ids", token, 0, None)
        if not isinstance(self.ignore_eos, bool):
            raise UsageError(f"ignore_eos is {self.ignore_eos!r}; true or false is needed")
        for name in ("presence_penalty", "frequency_penalty", "length_penalty"):
            _check_number(name, getattr(self, name), -10.0, 10.0)
        _check_bias(self.logit_bias)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 0, MAX_LOGPROBS)
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise UsageError(f"grammar is a {type(self.grammar).__name__}; a Grammar is needed")
        _check_integer("num_beams", self.num_beams, 1, MAX_BEAMS)
        if self.num_beams > 1:
            self._check_beams()

    @property
    def is_seeded(self) -> bool:
        """Whether the answer is drawn by the random numbers of a seed."""
        return self.seed is not None and self.temperature > 0

    def _check_beams(self) -> None:
        combinable = ("num_beams", "length_penalty", "max_new_tokens", "stop_token_ids", "ignore_eos", "seed")
        defaults = {field.name: field.default for field in fields(self) if field.name not in combinable}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                raise UsageError(f"{name} is {getattr(self, name)!r}; with num_beams it can only be {default!r}")

    def random_source(self) -> Xoshiro256:
        """The stream of random numbers of one request."""
        return Xoshiro256(secrets.randbits(64) if self.seed is None else self.seed)


class SamplingKeywords(TypedDict, total=False):
    """The fields of `SamplingOptions` as keywords; None leaves a field as it is."""

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] | None
    logprobs: int | None
    prompt_logprobs: int | None
    grammar: Grammar | None
    num_beams: int | None
    length_penalty: float | None


# What other libraries call an option.
_ELSEWHERE = {
    "max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens", "max_length": "max_new_tokens",
    "eos_token_id": "stop_token_ids", "stop_strings": "stop", "do_sample": "temperature",
}  # fmt: skip


def override(options: SamplingOptions | None, **given: object) -> SamplingOptions:
    """`options`, or the defaults, overridden by the `given` fields that are not None; `stop` may be one string.

    Raises UsageError for a name that is none of them, with the one that is meant.
    """
    base = options or SamplingOptions()
    values = {field.name: getattr(base, field.name) for field in fields(SamplingOptions)}
    for name in given.keys() - values.keys():
        meant = _ELSEWHERE.get(name) or next(iter(get_close_matches(name, values, 1)), None)
        hint = f"did you mean `{meant}`?" if meant else f"there are: {', '.join(values)}"
        raise UsageError(f"`{name}` is no option of an answer", hint=hint)
    values |= {name: value for name, value in given.items() if value is not None}
    for name in ("stop", "stop_token_ids", "logit_bias"):
        if isinstance(values[name], str):
            values[name] = (values[name],)
        elif isinstance(values[name], Mapping):
            values[name] = tuple(values[name].items())
        elif isinstance(values[name], list):
            values[name] = tuple(values[name])
    return SamplingOptions(**values)


def adjust(logits: Logits, answer: Sequence[int], options: SamplingOptions) -> Logits:
    """Logits `[V]` with biases and penalties, in float32; the same array if there are none.

    A bias of a token beyond the vocabulary has no effect. The penalties are OpenAI's: presence counts each distinct token
    of `answer` once, frequency counts each occurrence.
    """
    if not options.logit_bias and not options.presence_penalty and not options.frequency_penalty:
        return logits
    changed = logits.copy()
    for token, bias in options.logit_bias:
        if token < len(changed):
            changed[token] += np.float32(bias)
    if len(answer):
        ids, counts = np.unique(np.asarray(answer, np.int64), return_counts=True)
        changed[ids] -= np.float32(options.presence_penalty) + np.float32(options.frequency_penalty) * counts
    return changed


def sample(logits: Logits, seen: Sequence[int], options: SamplingOptions, source: Xoshiro256) -> int:
    """The next token id from logits `[V]`; `seen` are the tokens of prompt and answer. In float64, in this order:

    1. repetition penalty: the logit of each distinct token in `seen` is divided by it when positive, else multiplied;
    2. temperature: at 0 the largest logit wins, the lowest id among equals, and no number is drawn; else each logit is
       divided by it;
    3. top-k: the k largest stay, lower ids first among equals;
    4. top-p: weights exp(logit - largest logit); sorted downwards by logit, lower ids first among equals, the shortest
       head stays whose sum reaches top_p times the sum of all, which is added up by ascending token id;
    5. min-p: weights of at least min_p times the largest stay;
    6. draw: the weights that stayed are added up by ascending token id; the first running sum above uniform() times
       the whole sum names the token.

    Raises GenerationError when the largest logit is not finite.
    """
    scores: NDArray[np.float64] = logits.astype(np.float64)
    if options.repetition_penalty != 1.0 and len(seen):
        ids = np.unique(np.asarray(seen, np.int64))
        old = scores[ids]
        scores[ids] = np.where(old > 0, old / options.repetition_penalty, old * options.repetition_penalty)
    best = int(scores.argmax())
    if not math.isfinite(scores[best]):
        raise GenerationError("the model's logits are not finite", hint="try exact mode, or convert with more bits")
    if options.temperature == 0.0:
        return best
    scores /= options.temperature
    kept = _top_k(scores, options.top_k)
    weights = np.exp(scores[kept] - scores[best])
    if options.top_p < 1.0:
        head = _top_p(scores[kept], weights, options.top_p)
        kept, weights = kept[head], weights[head]
    if options.min_p > 0.0:
        likely = weights >= options.min_p * weights.max()
        kept, weights = kept[likely], weights[likely]
    sums = np.cumsum(weights)
    index = int(np.searchsorted(sums, source.uniform() * sums[-1], side="right"))
    return int(kept[min(index, len(kept) - 1)])


def _top_k(scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Ids of the k largest scores, in ascending order; all ids for 0."""
    size = len(scores)
    if k == 0 or k >= size:
        return np.arange(size, dtype=np.int64)
    least = np.partition(scores, size - k)[size - k]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: k - len(above)]
    return np.sort(np.concatenate([above, equal])).astype(np.int64)


def _top_p(scores: NDArray[np.float64], weights: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """Indices of the tokens of the head, in ascending order."""
    total = np.cumsum(weights)[-1]
    # The weights below half of (1 - top_p) * mean cannot belong to the head, so they are not sorted.
    least = (1.0 - top_p) * total / len(weights) / 2 if top_p < 1.0 - 1e-6 else 0.0
    likely = np.flatnonzero(weights >= least)
    order = likely[np.argsort(-scores[likely], kind="stable")]
    count = int(np.searchsorted(np.cumsum(weights[order]), top_p * total)) + 1
    return np.sort(order[:count])


def _check_integer(name: str, value: object, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        allowed = f"{low} or more" if high is None else f"{low} to {high}"
        raise UsageError(f"{name} is {value!r}; a whole number of {allowed} is needed")


def _check_number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not good or (above and value == low):
        raise UsageError(f"{name} is {value!r}; a number {'above' if above else 'from'} {low:g} to {high:g} is needed")


def _check_bias(bias: object) -> None:
    if not isinstance(bias, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in bias):
        raise UsageError(f"logit_bias is {bias!r:.80}; a mapping of token ids to numbers is needed")
    if len(bias) > MAX_LOGIT_BIAS:
        raise UsageError(f"logit_bias names {len(bias)} tokens; at most {MAX_LOGIT_BIAS} are allowed")
    for token, value in bias:
        _check_integer("logit_bias", token, 0, None)
        _check_number("logit_bias", value, -100.0, 100.0)


def _check_stop(stop: object) -> None:
    if not isinstance(stop, tuple) or not all(isinstance(text, str) and text for text in stop):
        raise UsageError(f"stop is {stop!r}; a tuple of strings of at least one character is needed")
    if len(stop) > MAX_STOP_STRINGS:
        raise UsageError(f"{len(stop)} stop strings; at most {MAX_STOP_STRINGS} are allowed")
