"""Perplexity by the GPTQ / AutoRound protocol, and the divergence of a model's predictions from a reference's.

The whole text is tokenised once and cut into consecutive samples of `context` tokens; the remainder is dropped. Each
sample is scored on its own: `context - 1` predicted tokens. Perplexity is exp of the mean negative log-likelihood in nats.

That protocol is older than models that are lost without BOS. So by default each sample begins with what the tokenizer puts before
a text, and `context` less that many tokens of text follow. The prefix is not scored. For a tokenizer that puts nothing there
both are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.errors import CalibrationError
from ovround.texts.windows import NO_PREFIX, Prefix, cut_windows, scored

Logits = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Token ids `[B, T]` -> logits `[B, T, V]`."""

OnSamples = Callable[[int, int], None]
"""Receives the number of samples scored so far and the number of all samples."""

_BATCH_LOGITS = 1 << 22  # most logits in memory at a time: 16 MB
_BATCH_SAMPLES = 16  # a larger batch makes no engine faster, and its attention scores take more memory


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model's scores on one text; the fields that compare it with a reference are None without one.

    `kl_nats` (reference to model), `top1_agreement` (both have the same likeliest token) and the two accuracies (the
    likeliest token is the text's own) are means over the tokens. Samples have `context` tokens and begin with `prefix`.
    """

    tokens: int
    perplexity: float
    accuracy: float
    reference_perplexity: float | None = None
    reference_accuracy: float | None = None
    kl_nats: float | None = None
    top1_agreement: float | None = None
    context: int = 0
    prefix: tuple[str, ...] = ()


def cut_samples(tokens: NDArray[np.int64], context: int, source: str, prefix: Prefix = NO_PREFIX) -> NDArray[np.int64]:
    """Cut tokens `[n]` into samples `[S, context]` that begin with `prefix`; raises CalibrationError for too few tokens."""
    samples = cut_windows(tokens, context, prefix)
    if not len(samples):
        raise CalibrationError(
            f"`{source}` has {len(tokens)} tokens; one sample needs {context}",
            hint="give more text or a smaller --context",
        )
    return samples


def evaluate(
    samples: NDArray[np.int64],
    logits: Logits,
    vocab_size: int,
    reference: Logits | None = None,
    on_samples: OnSamples | None = None,
    prefix: Prefix = NO_PREFIX,
) -> Evaluation:
    """Score `samples` `[B, T]` that begin with `prefix` in batches; sums are kept in float64."""
    batch = min(_BATCH_SAMPLES, max(1, _BATCH_LOGITS // (samples.shape[1] * vocab_size)))
    nll = reference_nll = divergence = 0.0
    tokens = right = reference_right = agreed = 0
    for start in range(0, len(samples), batch):
        ids = samples[start : start + batch]
        log_p = _log_softmax(logits(ids)[:, :-1])
        following = ids[:, 1:]
        counted = scored(following, prefix)
        following, log_p = following[counted], log_p[counted]
        nll -= float(np.take_along_axis(log_p, following[:, None], -1).sum(dtype=np.float64))
        likeliest = log_p.argmax(-1)
        right += int((likeliest == following).sum())
        tokens += following.size
        if reference is not None:
            log_q = _log_softmax(reference(ids)[:, :-1])[counted]
            reference_nll -= float(np.take_along_axis(log_q, following[:, None], -1).sum(dtype=np.float64))
            divergence += float((np.exp(log_q) * (log_q - log_p)).sum(dtype=np.float64))
            reference_likeliest = log_q.argmax(-1)
            reference_right += int((reference_likeliest == following).sum())
            agreed += int((likeliest == reference_likeliest).sum())
        if on_samples is not None:
            on_samples(min(start + batch, len(samples)), len(samples))
    alone = Evaluation(tokens, math.exp(nll / tokens), right / tokens, context=samples.shape[1], prefix=prefix.tokens)
    if reference is None:
        return alone
    return replace(
        alone,
        reference_perplexity=math.exp(reference_nll / tokens),
        reference_accuracy=reference_right / tokens,
        kl_nats=max(0.0, divergence / tokens),  # rounding can give -1e-9 for equal models
        top1_agreement=agreed / tokens,
    )


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    shifted: NDArray[np.float32] = (logits - logits.max(-1, keepdims=True)).astype(np.float32)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return shifted
