"""Beam search: several answers grow side by side, and the likeliest is chosen, by transformers' ranking."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ovround.runtime.decoding.generation import Request
from ovround.runtime.engine import Engine, Logits


def beam_search(engine: Engine, request: Request) -> None:
    """Give `request` its tokens and finish_reason.

    Each step keeps the `num_beams` likeliest unfinished answers. An answer with an end token is closed; its score is the
    sum of its log-probabilities, divided by its length to the power `length_penalty`. The search ends when no unfinished
    answer has a better score than the worst of `num_beams` closed ones (transformers' `early_stopping=False`).
    """
    started = time.perf_counter()
    beams, penalty = request.options.num_beams, request.options.length_penalty
    engine.reset()
    log_probabilities = _log_softmax(engine.prefill([request.prompt_ids]))
    request.first_token_s = time.perf_counter() - started
    scores: NDArray[np.float64] = np.zeros(1)
    answers: list[list[int]] = [[]]
    closed: list[tuple[float, list[int]]] = []
    for length in range(1, request.max_new_tokens + 1):
        rows, tokens, totals = _best(scores[:, None] + log_probabilities, beams + beams * len(request.end_token_ids))
        running: list[tuple[int, int, float]] = []
        for rank, (row, token, total) in enumerate(zip(rows, tokens, totals, strict=True)):
            if token in request.end_token_ids:
                if rank < beams:
                    closed.append((total / length**penalty, [*answers[row], token]))
            elif len(running) < beams:
                running.append((row, token, total))
        closed = sorted(closed, key=lambda answer: -answer[0])[:beams]
        answers = [[*answers[row], token] for row, token, _ in running]
        scores = np.array([total for _, _, total in running])
        if not running or (len(closed) == beams and scores[0] / length**penalty <= closed[-1][0]):
            break
        if length < request.max_new_tokens:
            engine.keep([row for row, _, _ in running])
            log_probabilities = _log_softmax(engine.decode([token for _, token, _ in running]))
    else:
        closed += [(total / length**penalty, answer) for total, answer in zip(scores, answers, strict=True)]
    request.token_ids = max(closed, key=lambda answer: answer[0])[1]
    request.finish_reason = "stop" if request.token_ids[-1] in request.end_token_ids else "length"
    request.last_token_s = time.perf_counter() - started


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Log-probabilities `[B, V]` in float64."""
    scores: NDArray[np.float64] = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return scores


def _best(totals: NDArray[np.float64], count: int) -> tuple[list[int], list[int], list[float]]:
    """Rows, tokens and totals of the `count` largest of `[B, V]`, in descending order; of equals the lower index first."""
    flat = totals.ravel()
    count = min(count, flat.size)
    likely = np.flatnonzero(flat >= np.partition(flat, flat.size - count)[flat.size - count])
    order = likely[np.argsort(-flat[likely], kind="stable")][:count]
    rows, tokens = np.divmod(order, totals.shape[1])
    return rows.tolist(), tokens.tolist(), flat[order].tolist()
