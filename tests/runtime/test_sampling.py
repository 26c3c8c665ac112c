"""`sample` step by step: what each option keeps, what it draws, and what it refuses."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovround.errors import GenerationError, UsageError
from ovround.runtime.decoding.random_source import Xoshiro256
from ovround.runtime.decoding.sampling import SamplingOptions, adjust, override, sample

LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -1.0, 0.5], np.float32)


def draws(options: SamplingOptions, count: int = 4000, logits: Any = LOGITS, seen: Any = ()) -> Counter[int]:
    source = Xoshiro256(11)
    return Counter(sample(logits, seen, options, source) for _ in range(count))


def test_greedy_takes_the_lowest_of_equals_and_draws_nothing() -> None:
    source = Xoshiro256(1)
    assert sample(LOGITS, (), SamplingOptions(), source) == 1
    assert source.next_u64() == Xoshiro256(1).next_u64()


def test_penalty_comes_before_greedy() -> None:
    assert sample(LOGITS, [1, 1], SamplingOptions(repetition_penalty=1.5), Xoshiro256(0)) == 3
    # A negative logit gets worse too: -1 * 2 < -1.5.
    negative = np.array([-1.0, -1.5], np.float32)
    assert sample(negative, [0], SamplingOptions(repetition_penalty=2.0), Xoshiro256(0)) == 1


def test_draws_follow_the_softmax() -> None:
    counts = draws(SamplingOptions(temperature=1.0), 20000)
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum() * 20000
    chi_square = sum((counts[token] - expected[token]) ** 2 / expected[token] for token in range(len(LOGITS)))
    assert chi_square < 20.5  # 5 degrees of freedom: exceeded once in a thousand


def test_temperature_flattens() -> None:
    cold, hot = draws(SamplingOptions(temperature=0.2)), draws(SamplingOptions(temperature=5.0))
    assert cold[4] == 0 < hot[4]
    assert cold[1] + cold[3] > hot[1] + hot[3]


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_k": 1}, {1}),  # 1 and 3 are equal: the lower id stays
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_k": 100}, {0, 1, 2, 3, 4, 5}),
        ({"top_p": 1e-9}, {1}),
        ({"top_p": 0.5}, {1, 3}),  # 0.38 each
        ({"top_p": 0.8}, {1, 2, 3}),
        ({"min_p": 1.0}, {1, 3}),
        ({"min_p": 0.3}, {1, 2, 3}),  # exp(-1) = 0.37, exp(-2) = 0.14
        ({"top_k": 3, "top_p": 0.3}, {1}),
    ],
)
def test_each_filter_keeps_exactly_its_tokens(options: dict[str, Any], allowed: set[int]) -> None:
    assert set(draws(SamplingOptions(temperature=1.0, **options))) == allowed


def test_top_p_is_taken_of_what_top_k_left() -> None:
    # Of {1, 3, 2} token 1 has 0.42 and 1 with 3 have 0.84: 0.8 needs both and no more.
    assert set(draws(SamplingOptions(temperature=1.0, top_k=3, top_p=0.8))) == {1, 3}


def test_golden_draws() -> None:
    """The numbers that the C++ runtime must give too."""
    logits = np.array([token * 37 % 40 / 8 - 3 for token in range(50)], np.float32)  # exact, with equals
    plain, filtered = Xoshiro256(42), Xoshiro256(42)
    options = SamplingOptions(temperature=0.8, top_k=12, top_p=0.9, min_p=0.02, repetition_penalty=1.1)
    assert [sample(logits, (), SamplingOptions(temperature=1.0), plain) for _ in range(12)] == GOLDEN_PLAIN
    assert [sample(logits, range(10), options, filtered) for _ in range(12)] == GOLDEN_FILTERED


GOLDEN_PLAIN = [2, 16, 29, 43, 48, 35, 31, 41, 34, 28, 29, 14]
GOLDEN_FILTERED = [1, 15, 28, 42, 42, 29, 28, 41, 29, 27, 28, 14]


def slow_sample(logits: Any, seen: Any, options: SamplingOptions, source: Xoshiro256) -> int:
    """The docstring of `sample`, word for word, in plain Python."""
    scores = [float(logit) for logit in logits]
    for token in set(seen):
        penalty = options.repetition_penalty
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    best = max(range(len(scores)), key=lambda token: (scores[token], -token))
    if options.temperature == 0:
        return best
    scores = [score / options.temperature for score in scores]
    tokens = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    tokens = tokens[: options.top_k] if options.top_k else tokens
    weights = {token: math.exp(scores[token] - scores[best]) for token in tokens}
    if options.top_p < 1:
        threshold, running, head = options.top_p * running_sums(weights[token] for token in sorted(tokens))[-1], 0.0, []
        for token in tokens:
            head.append(token)
            running += weights[token]
            if running >= threshold:
                break
        tokens = head
    largest = max(weights[token] for token in tokens)
    tokens = sorted(token for token in tokens if weights[token] >= options.min_p * largest)
    sums = running_sums(weights[token] for token in tokens)
    number = source.uniform() * sums[-1]
    return next((token for token, total in zip(tokens, sums, strict=True) if total > number), tokens[-1])


def running_sums(values: Iterable[float]) -> list[float]:
    return list(itertools.accumulate(values))


def test_against_the_slow_reference() -> None:
    rng = np.random.default_rng(0)
    for case in range(2000):
        ties = (rng.integers(-40, 40, 60) / 8).astype(np.float32)
        logits = ties if case % 2 else rng.standard_normal(60).astype(np.float32) * 3
        options = SamplingOptions(
            temperature=float(rng.choice([0, 0.5, 1, 2.5])),
            top_k=int(rng.choice([0, 1, 5, 30, 100])),
            top_p=float(rng.choice([1, 0.99999999, 0.9, 0.3])),
            min_p=float(rng.choice([0, 0.05, 0.5])),
            repetition_penalty=float(rng.choice([1, 1.2, 0.8])),
        )
        seen, seed = rng.integers(0, 60, 10).tolist(), int(rng.integers(0, 2**63))
        expected = slow_sample(logits, seen, options, Xoshiro256(seed))
        assert sample(logits, seen, options, Xoshiro256(seed)) == expected


def test_infinite_logits() -> None:
    allowed = np.array([-math.inf, 1.0, -math.inf, 0.0], np.float32)
    assert set(draws(SamplingOptions(temperature=1.0, top_p=0.999), logits=allowed)) == {1, 3}
    for bad in ([math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]):
        with pytest.raises(GenerationError, match="not finite"):
            sample(np.array(bad, np.float32), (), SamplingOptions(), Xoshiro256(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0), ("max_new_tokens", -5), ("max_new_tokens", 1.5), ("max_new_tokens", True),
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", "hot"),
        ("top_k", -1), ("top_k", 1.0), ("top_p", 0.0), ("top_p", 1.1), ("min_p", -0.1), ("min_p", 2),
        ("repetition_penalty", 0.0), ("repetition_penalty", 11), ("seed", -1), ("seed", 2**64),
        ("stop", "word"), ("stop", ("",)), ("stop", (1,)), ("stop", ("a",) * 65),
        ("stop_token_ids", (-1,)), ("stop_token_ids", [1]), ("ignore_eos", 1),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingOptions(**{field: value})
    assert field in str(caught.value) or "stop strings" in str(caught.value)


def test_override_keeps_what_is_not_given() -> None:
    base = SamplingOptions(temperature=0.5, stop=("x",))
    assert override(base, seed=3, temperature=None) == SamplingOptions(temperature=0.5, seed=3, stop=("x",))
    assert override(None, stop="end", stop_token_ids=[4]) == SamplingOptions(stop=("end",), stop_token_ids=(4,))
    with pytest.raises(UsageError, match="top_k"):
        override(None, top_k=-3)


def test_without_a_seed_requests_differ() -> None:
    streams = {SamplingOptions(temperature=1.0).random_source().next_u64() for _ in range(8)}
    assert len(streams) == 8


def test_golden_numbers() -> None:
    """The same file holds the C++ runtime to account."""
    path = Path(__file__).resolve().parents[2] / "runtime" / "cpp" / "tests" / "sampling.json"
    for case in json.loads(path.read_text()):
        options = override(
            None, **{**case["options"], "logit_bias": tuple(map(tuple, case["options"].get("logit_bias", [])))}
        )
        source, tokens = options.random_source(), list[int]()
        for _ in case["tokens"]:
            logits = adjust(np.array(case["logits"], np.float32), tokens, options)
            tokens.append(sample(logits, case["prompt"] + tokens, options, source))
        assert tokens == case["tokens"], case["options"]
