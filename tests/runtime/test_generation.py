"""The loop on an engine that counts: when requests end, who stays in the batch, what does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from ovround.errors import GenerationError
from ovround.runtime.decoding.generation import Request, admit, run_batch
from ovround.runtime.decoding.sampling import SamplingOptions


def finish(engine: Any, *requests: Request) -> list[list[int]]:
    for _ in run_batch(engine, requests):
        pass
    return [request.token_ids for request in requests]


def test_max_new_tokens_ends_with_length(fake_engine: Any) -> None:
    request = admit([3, 4], SamplingOptions(max_new_tokens=3), 64, ())
    assert finish(fake_engine, request) == [[5, 6, 7]]
    assert request.finish_reason == "length"


def test_an_end_token_ends_with_stop_and_is_kept(fake_engine: Any) -> None:
    request = admit([3], SamplingOptions(max_new_tokens=9), 64, [6])
    assert finish(fake_engine, request) == [[4, 5, 6]]
    assert request.finish_reason == "stop"


def test_ignore_eos_minds_stop_token_ids_still(fake_engine: Any) -> None:
    options = SamplingOptions(max_new_tokens=9, ignore_eos=True, stop_token_ids=(8,))
    assert finish(fake_engine, admit([3], options, 64, [6])) == [[4, 5, 6, 7, 8]]


def test_without_a_limit_the_context_is_the_limit(fake_engine: Any) -> None:
    request = admit([0] * 60, SamplingOptions(), 64, ())
    assert len(finish(fake_engine, request)[0]) == 4
    assert request.finish_reason == "length"


def test_ended_rows_leave_the_batch(fake_engine: Any) -> None:
    requests = [admit([start], SamplingOptions(max_new_tokens=9), 64, [6, 20]) for start in (1, 4, 15)]
    assert finish(fake_engine, *requests) == [[2, 3, 4, 5, 6], [5, 6], [16, 17, 18, 19, 20]]
    assert fake_engine.batch_sizes == [3, 3, 2, 2, 2]
    assert fake_engine.kept == [[0, 2]]


def test_the_caller_may_end_a_request(fake_engine: Any) -> None:
    request = admit([1], SamplingOptions(max_new_tokens=9), 64, ())
    for _ in run_batch(fake_engine, [request]):
        if len(request.token_ids) == 2:
            request.finish_reason = "stop"
    assert request.token_ids == [2, 3]


def test_a_row_of_a_batch_draws_what_it_draws_alone(fake_engine: Any) -> None:
    options = SamplingOptions(max_new_tokens=8, temperature=3.0, seed=5)
    alone = [finish(fake_engine, admit([start], options, 64, ()))[0] for start in (1, 9)]
    assert finish(fake_engine, *(admit([start], options, 64, ()) for start in (1, 9))) == alone


def test_times_grow(fake_engine: Any) -> None:
    request = admit([1], SamplingOptions(max_new_tokens=4), 64, ())
    finish(fake_engine, request)
    assert 0 < request.first_token_s < request.last_token_s


@pytest.mark.parametrize(("prompt", "new", "numbers"), [(64, None, ("65", "64")), (60, 5, ("65", "64"))])
def test_overflow_gives_both_numbers(prompt: int, new: int | None, numbers: tuple[str, str]) -> None:
    with pytest.raises(GenerationError) as caught:
        admit([0] * prompt, SamplingOptions(max_new_tokens=new), 64, ())
    assert all(number in str(caught.value) for number in numbers)


def test_the_last_token_that_fits_is_allowed() -> None:
    assert admit([0] * 60, SamplingOptions(max_new_tokens=4), 64, ()).max_new_tokens == 4


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(GenerationError, match="no tokens"):
        admit([], SamplingOptions(), 64, ())
