"""What a request gives back: a `Completion` at once, or a `Piece` a token."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.runtime.decoding.generation import FinishReason
from ovround.runtime.decoding.logprobs import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens: of the prompt with its special tokens, and generated, an end token included."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt, not computed again: the last request's cache had them."""
    drafted_tokens: int = 0
    """Guesses that a draft model or the prompt lookup made."""
    accepted_tokens: int = 0
    """Guesses that the model agreed with."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of work from the start of prefill, without what a stream's reader did between tokens.

    In a batch a request's times are those of the batch up to its own last token.
    """

    time_to_first_token_s: float
    time_per_output_token_s: float | None
    """Mean over the tokens after the first; None when there are none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `token_ids` are all that were generated; `text` ends before an end token or a stop string."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """Of each of `token_ids`; None when none were asked for."""
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    """Of the prompt's tokens after the first."""

    @property
    def prompt_tokens(self) -> int:
        return self.usage.prompt_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a stream and the text that it completed, often none; the texts together are `Completion.text`.

    The last piece, and no other, has `finish_reason`, `usage` and `timings`.
    """

    text: str
    token_id: int
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    """On the first piece, when they were asked for."""
