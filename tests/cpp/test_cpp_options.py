"""Log-probabilities, prefix cache, beam search and speculation give the same tokens and numbers in C++ as in Python."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cpp_build import replay, run

from ovround.conversion.convert import convert
from ovround.errors import UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM, Completion
from ovround.runtime.decoding.logprobs import TokenLogprobs

MODELS = ["demo", "stories260K"]
PROMPTS = ["Once upon a time, there was a little girl. Once upon a time, there was a", "Return the number of", "A"]
GREEDY: dict[str, Any] = {"max_new_tokens": 48}
DRAWN: dict[str, Any] = {"max_new_tokens": 48, "temperature": 0.8, "top_p": 0.95, "seed": 7, "ignore_eos": True}
TOLERANCE = 1e-12  # of log-probabilities: float64 sums of a few thousand terms in another order, with another exp
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


@pytest.fixture(scope="module", params=[*MODELS, "demo in ONNX"])
def model(request: pytest.FixtureRequest, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, _, onnx = request.param.partition(" in ")
    source = "demo" if name == "demo" else str(request.getfixturevalue("shared") / "models" / name)
    group_size = -1 if name == "stories260K" else 32  # its 172 inputs are no multiple of 32
    options = ConvertOptions(
        formats=("openvino", "onnx") if onnx else ("openvino",), group_size=group_size, recipe="rtn"
    )
    folders = convert(source, tmp_path_factory.mktemp("model") / "out", options).folders
    if onnx:
        for path in folders[0].glob("openvino_*tokenizer.*"):
            shutil.copy(path, folders[1])
    return folders[-1]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ConvertOptions(formats=("openvino",), group_size=64, recipe="rtn")
    return convert("demo", tmp_path_factory.mktemp("demo") / "out", options).folders[0]


def same(answer: Any, expected: Completion) -> None:
    assert (answer["text"], answer["token_ids"]) == (expected.text, list(expected.token_ids))
    assert answer["finish_reason"] == expected.finish_reason
    counts = asdict(expected.usage)
    assert {name: answer[name] for name in counts if name != "completion_tokens"} == {
        name: count for name, count in counts.items() if name != "completion_tokens"
    }


def same_logprobs(answer: Any, expected: tuple[TokenLogprobs, ...] | None) -> None:
    assert expected is not None
    assert [actual["token_id"] for actual in answer] == [token.token_id for token in expected]
    for actual, expected_token in zip(answer, expected, strict=True):
        assert actual["logprob"] == pytest.approx(expected_token.logprob, abs=TOLERANCE)
        assert [token for token, _ in actual["top"]] == [token for token, _ in expected_token.top]
        assert [value for _, value in actual["top"]] == pytest.approx(
            [value for _, value in expected_token.top], abs=TOLERANCE
        )


def test_log_probabilities_are_those_of_python(programs: Path, model: Path) -> None:
    wanted = [{"logprobs": 0}, {"logprobs": 3}, {"prompt_logprobs": 2}, {"logprobs": 1, "prompt_logprobs": 0}]
    options = [{**base, "max_new_tokens": 8, **extra} for base in (GREEDY, DRAWN) for extra in wanted]
    long = "Return the number of " * 30  # longer than one piece of scoring
    requests = [{"prompt": prompt, "options": settings} for settings in options for prompt in (PROMPTS[1], "A", long)]
    with LLM(model, exact=True, threads=1) as llm:
        ids = llm.tokenizer.encode(PROMPTS[0])
        answers = replay(programs, model, [*requests, {"score": ids, "count": 4}])
        for request in requests:
            answer, expected = next(answers), llm.generate(request["prompt"], **request["options"])
            same(answer, expected)
            for name in ("logprobs", "prompt_logprobs"):
                if name in request["options"]:
                    same_logprobs(answer[name], getattr(expected, name))
                else:
                    assert answer[name] is None
            assert answer["piece_logprobs"] == (answer["logprobs"] or [])
        same_logprobs(next(answers), llm.score(ids, 4))


def test_a_kept_cache_gives_the_tokens_of_python_and_the_same_counts(programs: Path, model: Path) -> None:
    texts = [PROMPTS[0], PROMPTS[0] + " little boy", "A", PROMPTS[0], PROMPTS[0], PROMPTS[1] * 12, PROMPTS[1]]
    requests = [{"prompt": text, "options": options} for options in (GREEDY, DRAWN) for text in texts]
    with LLM(model, exact=True, threads=1, prefix_cache=True) as llm:
        expected = [llm.generate(request["prompt"], **request["options"]) for request in requests]
    assert sum(completion.usage.cached_tokens for completion in expected) > 40
    for answer, completion in zip(replay(programs, model, requests, {"prefix_cache": True}), expected, strict=True):
        same(answer, completion)


def test_what_is_cut_out_of_a_kept_cache_is_not_missed(programs: Path, model: Path) -> None:
    """A short prompt after a long one drops most of the cache, so OpenVINO's cache is trimmed."""
    with LLM(model, exact=True, threads=1, prefix_cache=True) as llm:
        each = len(llm.tokenizer.encode(" " + PROMPTS[1], add_special_tokens=False))
        long = " ".join([PROMPTS[1]] * (330 // each))
        texts = [long, PROMPTS[1] + " words", PROMPTS[1] + " words that"]
        requests = [{"prompt": text, "options": {"max_new_tokens": 8, "ignore_eos": True}} for text in texts]
        expected = [llm.generate(request["prompt"], **request["options"]) for request in requests]
    assert expected[0].usage.prompt_tokens > 290
    assert expected[2].usage.cached_tokens > 0
    for answer, completion in zip(replay(programs, model, requests, {"prefix_cache": True}), expected, strict=True):
        same(answer, completion)


def test_beams_find_the_answers_of_python(programs: Path, model: Path) -> None:
    options: list[dict[str, Any]] = [
        {"num_beams": 4, "max_new_tokens": 24},
        {"num_beams": 3, "max_new_tokens": 24, "length_penalty": -1.5},
        {"num_beams": 2, "max_new_tokens": 16, "length_penalty": 2.0, "ignore_eos": True},
        {"num_beams": 5, "max_new_tokens": 20, "stop_token_ids": [13, 30, 261, 30]},
        {"num_beams": 2, "max_new_tokens": 1},
    ]
    requests = [{"prompt": prompt, "options": settings} for settings in options for prompt in PROMPTS]
    batch = {"prompts": PROMPTS, "options": options[0]}
    answers = replay(programs, model, [*requests, batch, {"prompt": PROMPTS[0], "options": GREEDY}])
    with LLM(model, exact=True, threads=1) as llm:
        for request in requests:
            same(next(answers), llm.generate(request["prompt"], **request["options"]))
        for answer, expected in zip(next(answers), llm.generate(PROMPTS, **options[0]), strict=True):
            same(answer, expected)
        same(next(answers), llm.generate(PROMPTS[0], **GREEDY))


def same_guesses(programs: Path, model: Path, load: dict[str, Any]) -> None:
    requests = [{"prompt": prompt, "options": options} for options in (GREEDY, DRAWN) for prompt in PROMPTS]
    requests.append({"prompt": PROMPTS[0], "options": {**DRAWN, "logprobs": 1, "stop": [" the"]}})
    with LLM(model, exact=True, threads=1, **load) as llm:
        expected = [llm.generate(request["prompt"], **request["options"]) for request in requests]
        batch = llm.generate(PROMPTS, **DRAWN)
    assert (
        4
        < sum(completion.usage.accepted_tokens for completion in expected)
        < sum(completion.usage.drafted_tokens for completion in expected)
    )
    answers = replay(programs, model, [*requests, {"prompts": PROMPTS, "options": DRAWN}], load)
    for completion in expected:
        same(next(answers), completion)
    for answer, completion in zip(next(answers), batch, strict=True):
        same(answer, completion)


def test_guesses_from_the_prompt_are_those_of_python(programs: Path, model: Path) -> None:
    same_guesses(programs, model, {"prompt_lookup": True})


def test_guesses_of_a_draft_are_those_of_python(programs: Path, demo: Path, tmp_path: Path) -> None:
    """The draft model is the model itself in fewer bits, so most of its guesses are right."""
    options = ConvertOptions(formats=("openvino",), bits=2, group_size=32, recipe="rtn")
    draft = convert("demo", tmp_path / "draft", options).folders[0]
    same_guesses(programs, demo, {"draft_model": str(draft), "draft_tokens": 3, "prefix_cache": True})


def test_what_cannot_be_is_refused_as_python_refuses_it(programs: Path, demo: Path) -> None:
    cases: list[dict[str, Any]] = [
        {"logprobs": 101},
        {"prompt_logprobs": -1},
        {"num_beams": 65},
        {"num_beams": 2, "temperature": 0.5},
        {"num_beams": 2, "top_k": 3},
        {"length_penalty": 11.0},
    ]
    answers = replay(programs, demo, [{"prompt": "a", "options": {"max_new_tokens": 4, **case}} for case in cases])
    with LLM(demo) as llm:
        for case, answer in zip(cases, answers, strict=True):
            with pytest.raises(UsageError) as refused:
                llm.generate("a", max_new_tokens=4, **case)
            assert answer["error"] == str(refused.value).replace(".0", "")  # as C++ writes numbers
    for load, words in (
        ({"prompt_lookup": True, "draft_model": str(demo)}, "prompt_lookup and draft_model are both given"),
        ({"draft_tokens": 0}, "draft_tokens is 0; a whole number of 1 to 64 is needed"),
        ({"draft_model": "/nowhere"}, "`/nowhere` does not exist"),
    ):
        (answer,) = replay(programs, demo, [{"prompt": "a"}], load)
        assert words in answer["error"]
    beams = run(
        programs / "ovround-run", demo, "Return the", "--raw", "--num-beams", 3, "--max-new-tokens", 8, "--exact"
    )
    with LLM(demo, exact=True) as llm:
        assert beams.stdout == llm.generate("Return the", num_beams=3, max_new_tokens=8).text + "\n"
