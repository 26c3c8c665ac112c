"""Log-probabilities of tokens in the model's own distribution, before penalties, temperature and grammar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovround.runtime.engine import Logits


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One position: its token, and the likeliest tokens. Natural logarithms, at most 0."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, in descending order; of equals the lower id first."""


def token_logprobs(logits: Logits, token_id: int, count: int) -> TokenLogprobs:
    """Log-probability of `token_id` and of the `count` likeliest tokens, from logits `[V]`, in float64."""
    scores: NDArray[np.float64] = logits.astype(np.float64)
    best = scores.max()
    scores -= best + np.log(np.exp(scores - best).sum())
    # All tokens equal to the last one stay, so that sorting prefers the lower ids among them.
    least = np.partition(scores, -count)[-count] if 0 < count <= len(scores) else -np.inf
    likely = np.flatnonzero(scores >= least) if count else np.zeros(0, np.int64)
    order = likely[np.argsort(-scores[likely], kind="stable")][:count]
    return TokenLogprobs(
        token_id, float(scores[token_id]), tuple((int(token), float(scores[token])) for token in order)
    )
