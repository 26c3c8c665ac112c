"""Log-probabilities against torch: of answers, of prompts, in streams; they never change an answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ovround.errors import GenerationError, UsageError
from ovround.runtime import LLM
from ovround.runtime.decoding.logprobs import token_logprobs

TOLERANCE = 1e-4  # of float32 logits of size 10, as in test_engines
Reference = Callable[[list[int]], NDArray[np.float32]]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    scores = logits.astype(np.float64) - logits.max()
    return scores - math.log(np.exp(scores).sum())


def test_one_position() -> None:
    logits = np.array([0.0, 2.0, 1.0, 2.0, -5.0], np.float32)
    expected = log_softmax(logits)
    scored = token_logprobs(logits, 4, 3)
    assert (scored.token_id, scored.logprob) == (4, pytest.approx(expected[4]))
    assert [token for token, _ in scored.top] == [1, 3, 2]
    assert [value for _, value in scored.top] == pytest.approx(expected[[1, 3, 2]])
    assert token_logprobs(logits, 0, 0).top == ()
    assert len(token_logprobs(logits, 0, 9).top) == 5
    assert token_logprobs(np.array([-np.inf, 1.0], np.float32), 0, 2).logprob == -math.inf


def test_of_the_answer_and_of_the_prompt(folder: Path, reference: Reference) -> None:
    with LLM(folder, exact=True, threads=1) as llm:
        for options in ({}, {"temperature": 1.5, "seed": 3, "top_k": 5, "frequency_penalty": 1.0}):
            plain = llm.generate("the cat sat", max_new_tokens=10, **options)
            completion = llm.generate("the cat sat", max_new_tokens=10, logprobs=3, prompt_logprobs=2, **options)
            assert completion.token_ids == plain.token_ids
            assert plain.logprobs is plain.prompt_logprobs is None
            assert completion.logprobs is not None
            assert completion.prompt_logprobs is not None
            ids = [*llm.tokenizer.encode("the cat sat"), *completion.token_ids]
            expected = [log_softmax(row) for row in reference(ids)]
            for index, token in enumerate([*completion.prompt_logprobs, *completion.logprobs]):
                assert token.token_id == ids[index + 1]
                assert abs(token.logprob - expected[index][token.token_id]) < TOLERANCE
                assert [token_id for token_id, _ in token.top] == list(np.argsort(-expected[index])[: len(token.top)])
            assert {len(token.top) for token in completion.prompt_logprobs} == {2}
            assert {len(token.top) for token in completion.logprobs} == {3}


def test_in_streams_and_batches(folder: Path) -> None:
    with LLM(folder, exact=True, threads=1, prompt_lookup=True) as llm:
        whole = llm.generate("the cat", max_new_tokens=12, logprobs=2, prompt_logprobs=0)
        pieces = list(llm.stream("the cat", max_new_tokens=12, logprobs=2, prompt_logprobs=0))
        assert [piece.logprobs.token_id for piece in pieces if piece.logprobs] == list(whole.token_ids)
        assert pieces[0].prompt_logprobs is not None
        assert all(piece.prompt_logprobs is None for piece in pieces[1:])
        first, second = llm.generate(["the cat", "once"], max_new_tokens=12, logprobs=2)
        assert first.logprobs is not None
        assert second.logprobs is not None
        assert len(first.logprobs) == len(first.token_ids)


def test_scores_of_a_long_text(folder: Path, reference: Reference) -> None:
    """More than a piece of what is held at once."""
    ids = np.random.default_rng(2).integers(0, 320, 300).tolist()
    with LLM(folder, exact=True, threads=1, prefix_cache=True) as llm:
        scores = llm.score(ids)
        expected = [log_softmax(row)[token] for row, token in zip(reference(ids), ids[1:], strict=False)]
        assert np.abs(np.array([token.logprob for token in scores]) - expected).max() < TOLERANCE
        assert llm.score([5]) == ()
        with pytest.raises(GenerationError, match="641"):
            llm.score([1] * 641)
        with pytest.raises(GenerationError, match="no tokens"):
            llm.score([])
        with pytest.raises(UsageError, match="prompt_logprobs is -1"):
            llm.score(ids, -1)
