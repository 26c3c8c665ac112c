"""Perplexity by the GPTQ / AutoRound protocol, and how far a model's predictions are from a reference's.

The whole text is tokenised once and cut into consecutive windows of `context` tokens; the remainder is dropped. Each
window is scored on its own: `context - 1` predicted tokens. Perplexity is exp of the mean negative log-likelihood in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.errors import CalibrationError

Logits = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Token ids `[B, T]` -> logits `[B, T, V]`."""

OnWindows = Callable[[int, int], None]
"""Told the number of windows done and of all windows."""

_BATCH_LOGITS = 1 << 22  # logits in memory at a time: 16 MB
_BATCH_WINDOWS = 16  # more make no engine faster, and its attention scores grow with them


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on one text; what compares it with a reference is None without one.

    Means a token: `kl_nats` (reference to model), `top1_agreement` (both find the same token likeliest), and the two
    `accuracy`, how often the likeliest token is the text's own.
    """

    tokens: int
    perplexity: float
    accuracy: float
    reference_perplexity: float | None = None
    reference_accuracy: float | None = None
    kl_nats: float | None = None
    top1_agreement: float | None = None


def cut_windows(tokens: NDArray[np.int64], context: int, source: str) -> NDArray[np.int64]:
    """`[n]` as `[n // context, context]`; raises CalibrationError when there is not one whole window."""
    count = len(tokens) // context
    if count == 0:
        raise CalibrationError(
            f"`{source}` has {len(tokens)} tokens; a window of {context} is needed",
            hint="give more text or a smaller --context",
        )
    return tokens[: count * context].reshape(count, context)


def evaluate(
    windows: NDArray[np.int64],
    logits: Logits,
    vocab_size: int,
    reference: Logits | None = None,
    on_windows: OnWindows | None = None,
) -> Evaluation:
    """Score `windows` `[W, T]`, a batch at a time; sums are kept in float64."""
    batch = min(_BATCH_WINDOWS, max(1, _BATCH_LOGITS // (windows.shape[1] * vocab_size)))
    nll = reference_nll = divergence = 0.0
    tokens = right = reference_right = agreed = 0
    for start in range(0, len(windows), batch):
        ids = windows[start : start + batch]
        log_p = _log_softmax(logits(ids)[:, :-1])
        following = ids[:, 1:, None]
        nll -= float(np.take_along_axis(log_p, following, -1).sum(dtype=np.float64))
        likeliest = log_p.argmax(-1)
        right += int((likeliest == ids[:, 1:]).sum())
        tokens += following.size
        if reference is not None:
            log_q = _log_softmax(reference(ids)[:, :-1])
            reference_nll -= float(np.take_along_axis(log_q, following, -1).sum(dtype=np.float64))
            divergence += float((np.exp(log_q) * (log_q - log_p)).sum(dtype=np.float64))
            reference_likeliest = log_q.argmax(-1)
            reference_right += int((reference_likeliest == ids[:, 1:]).sum())
            agreed += int((likeliest == reference_likeliest).sum())
        if on_windows is not None:
            on_windows(min(start + batch, len(windows)), len(windows))
    if reference is None:
        return Evaluation(tokens, math.exp(nll / tokens), right / tokens)
    return Evaluation(
        tokens,
        math.exp(nll / tokens),
        right / tokens,
        reference_perplexity=math.exp(reference_nll / tokens),
        reference_accuracy=reference_right / tokens,
        kl_nats=max(0.0, divergence / tokens),  # of equal models, rounding may leave -1e-9
        top1_agreement=agreed / tokens,
    )


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    shifted: NDArray[np.float32] = (logits - logits.max(-1, keepdims=True)).astype(np.float32)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return shifted
