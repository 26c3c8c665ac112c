"""Log-probabilities of tokens: of the model's own distribution, before penalties, temperature and constraints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovround.runtime.engine import Logits


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One position: the token that stands there, and the likeliest ones. Natural logarithms, at most 0."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens with theirs, downwards, lower ids first among equals; as many as were asked for."""


def token_logprobs(logits: Logits, token_id: int, count: int) -> TokenLogprobs:
    """From logits `[V]`, in float64: what `token_id` has, and the `count` likeliest tokens."""
    scores: NDArray[np.float64] = logits.astype(np.float64)
    best = scores.max()
    scores -= best + np.log(np.exp(scores - best).sum())
    # A few more than asked for, so that among equals at the border the lower ids win after sorting.
    least = np.partition(scores, -count)[-count] if 0 < count <= len(scores) else -np.inf
    likely = np.flatnonzero(scores >= least) if count else np.zeros(0, np.int64)
    order = likely[np.argsort(-scores[likely], kind="stable")][:count]
    return TokenLogprobs(
        token_id, float(scores[token_id]), tuple((int(token), float(scores[token])) for token in order)
    )
