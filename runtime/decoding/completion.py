"""The results of a request: a `Completion` for the whole answer, or a `Piece` per token."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.runtime.decoding.generation import FinishReason
from ovround.runtime.decoding.logprobs import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts: the prompt with its special tokens, and the generated tokens with an end token."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were in the cache and not computed again."""
    drafted_tokens: int = 0
    """Tokens that a draft model or prompt lookup proposed."""
    accepted_tokens: int = 0
    """Proposed tokens that the model chose as well."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of computation from the start of prefill, without a stream reader's own time between tokens.

    In a batch, a request's times are those of the batch up to the request's last token.
    """

    time_to_first_token_s: float
    time_per_output_token_s: float | None
    """Mean over the tokens after the first; None when there are none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `token_ids` are all generated tokens; `text` ends before an end token or a stop string."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """Log-probabilities of `token_ids`; None unless requested."""
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    """Log-probabilities of the prompt's tokens after the first; None unless requested."""

    @property
    def prompt_tokens(self) -> int:
        return self.usage.prompt_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a stream and the text that it completed, often none; all texts together are `Completion.text`.

    Only the last piece has `finish_reason`, `usage` and `timings`.
    """

    text: str
    token_id: int
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    """Only on the first piece, and if requested."""
    stop_string: str | None = None
    """The stop string that ended the answer; only on the last piece."""
