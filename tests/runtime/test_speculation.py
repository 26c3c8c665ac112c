"""Speculative decoding and a kept cache change the time of an answer, but none of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovround.errors import EngineError, UsageError
from ovround.runtime import LLM, Completion, SamplingOptions
from ovround.runtime.decoding.generation import admit, run_row
from ovround.runtime.decoding.kv_cache_slot import KVCacheSlot
from ovround.runtime.decoding.speculation import PromptLookup
from ovround.runtime.engines import open_engine

PROMPTS = ["the cat sat on the mat and the cat sat on the", "once upon a time", "", "日本"]
OPTIONS = [
    SamplingOptions(max_new_tokens=40),
    SamplingOptions(40, temperature=0.7, top_k=20, seed=9),
    SamplingOptions(40, repetition_penalty=1.3, frequency_penalty=0.5),
]


def same(ours: Completion, theirs: Completion) -> bool:
    return (ours.text, ours.token_ids, ours.finish_reason) == (theirs.text, theirs.token_ids, theirs.finish_reason)


@pytest.fixture(scope="module")
def plain(openvino_folder: Path, onnx_folder: Path) -> Iterator[dict[str, LLM]]:
    loaded = {name: LLM(name_folder, exact=True, threads=1) for name, name_folder in
              (("openvino", openvino_folder), ("onnx", onnx_folder))}  # fmt: skip
    yield loaded
    for llm in loaded.values():
        llm.close()


@pytest.fixture(params=["openvino", "onnx"])
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_the_lookup_takes_what_followed_last_time() -> None:
    lookup = PromptLookup()
    assert lookup.propose([1, 2, 3, 4, 9, 1, 2, 3], 2) == [4, 9]
    assert lookup.propose([7, 5, 8, 5, 6, 5], 4) == [6, 5]  # the latest place wins, and the text's end ends the guess
    assert lookup.propose([1, 2, 3, 8, 2, 3, 9, 1, 2, 3], 1) == [8]  # three equal tokens before two
    assert lookup.propose([1, 2, 3], 5) == []
    assert lookup.propose([1, 1], 0) == []


def test_a_lookup_changes_no_token(folder: Path, engine_name: str, plain: dict[str, LLM]) -> None:
    with LLM(folder, exact=True, threads=1, prompt_lookup=True) as llm:
        for options in OPTIONS:
            expected = [plain["openvino"].generate(prompt, options) for prompt in PROMPTS]
            assert all(map(same, llm.generate(PROMPTS, options), expected))


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["openvino", "onnx"])
def test_a_draft_changes_no_token(
    draft: str, engine_name: str, plain: dict[str, LLM], request: pytest.FixtureRequest, other_draft: Path
) -> None:
    folder = request.getfixturevalue(f"{engine_name}_folder")
    itself = request.getfixturevalue(f"{draft}_folder")
    for path, tokens in ((itself, 5), (other_draft, 3), (other_draft, 1)):
        with LLM(folder, exact=True, threads=1, draft_model=path, draft_tokens=tokens) as llm:
            for options in OPTIONS:
                expected = [plain[engine_name].generate(prompt, options) for prompt in PROMPTS]
                completions = llm.generate(PROMPTS, options)
                assert all(map(same, completions, expected))
                assert all(
                    0 <= completion.usage.accepted_tokens <= completion.usage.drafted_tokens
                    for completion in completions
                )
                if path == itself and options.temperature == 0 and options.repetition_penalty == 1:
                    assert all(
                        completion.usage.accepted_tokens == completion.usage.drafted_tokens > 0
                        for completion in completions
                    )


@pytest.fixture(scope="module")
def other_draft(tiny: Any, exporting: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokenizer, other weights: its guesses are mostly wrong."""
    rng = np.random.default_rng(8)
    weights = {
        name: values + rng.standard_normal(values.shape).astype(np.float32) * 0.02 for name, values in tiny[1].items()
    }
    return exporting("onnx", tiny[0], weights, tmp_path_factory.mktemp("draft") / "out")


def test_a_full_context_is_filled(folder: Path, plain: dict[str, LLM]) -> None:
    with LLM(folder, exact=True, threads=1, prompt_lookup=True) as llm:
        answer = llm.generate("the", ignore_eos=True)
        assert answer.usage.prompt_tokens + answer.usage.completion_tokens == llm.context_length
        assert same(answer, plain["onnx"].generate("the", ignore_eos=True))


def test_fewer_steps_than_tokens(fake_engine: Any) -> None:
    """A text that repeats itself: six tokens a step."""
    ids = list(range(32)) * 2
    fake_engine.context_length = 200
    request = admit(ids, SamplingOptions(max_new_tokens=60), 200, ())
    steps = len(list(run_row(KVCacheSlot(fake_engine), request, PromptLookup(), 5)))
    assert steps == 60
    assert request.token_ids == [index % 32 for index in range(60)]
    assert (request.drafted_tokens, request.accepted_tokens) == (49, 49)
    assert len(fake_engine.batch_sizes) < 15


def test_a_draft_must_share_the_tokenizer(folder: Path, demo_folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="another tokenizer"):
        LLM(folder, draft_model=demo_folders["onnx"])
    with pytest.raises(UsageError, match="both"):
        LLM(folder, draft_model=folder, prompt_lookup=True)
    with pytest.raises(UsageError, match="draft_tokens is 0"):
        LLM(folder, prompt_lookup=True, draft_tokens=0)


def test_a_resumed_chat_is_a_new_one(folder: Path, plain: dict[str, LLM]) -> None:
    messages: list[dict[str, str]] = []
    with LLM(folder, exact=True, threads=1, prefix_cache=True) as llm:
        for turn, text in enumerate(["the cat", "and then", "a mat"]):
            messages.append({"role": "user", "content": text})
            for _ in range(2):  # the second time all but the last token is there
                answer = llm.chat(messages, max_new_tokens=20)
                assert same(answer, plain["openvino"].chat(messages, max_new_tokens=20))
            assert answer.usage.cached_tokens == answer.usage.prompt_tokens - 1
            assert turn == 0 or answer.usage.cached_tokens > 10
            messages.append({"role": "assistant", "content": answer.text})
        edited = [{**messages[0], "content": "the dog"}, *messages[1:]]
        assert same(llm.chat(edited, max_new_tokens=20), plain["openvino"].chat(edited, max_new_tokens=20))
        batch = llm.generate(PROMPTS, max_new_tokens=5)  # a batch takes the cache
        assert all(map(same, batch, plain["openvino"].generate(PROMPTS, max_new_tokens=5)))
        assert llm.chat(messages[:1], max_new_tokens=20).usage.cached_tokens == 0


def test_a_left_stream_s_cache_is_used(folder: Path, plain: dict[str, LLM]) -> None:
    with LLM(folder, exact=True, threads=1, prefix_cache=True, prompt_lookup=True) as llm:
        for count in (1, 2, 5, 9):
            for tokens, _ in enumerate(llm.stream(PROMPTS[0], max_new_tokens=20), 1):
                if tokens == count:
                    break
            again = llm.generate(PROMPTS[0], max_new_tokens=20)
            assert again.usage.cached_tokens > 0
            assert same(again, plain["onnx"].generate(PROMPTS[0], max_new_tokens=20))


def test_without_the_option_nothing_is_kept(folder: Path) -> None:
    with LLM(folder) as llm:
        assert [llm.generate("the cat", max_new_tokens=4).usage.cached_tokens for _ in range(2)] == [0, 0]


def test_after_an_error_nothing_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(folder, exact=True, threads=1)
    row = KVCacheSlot(engine)
    expected, _ = row.start([1, 2, 3])

    def fail(*arguments: object) -> Any:
        raise EngineError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "decode", fail)
        with pytest.raises(EngineError):
            row.append([4])
    again, shared = row.start([1, 2, 3])
    assert shared == 0
    assert np.array_equal(again, expected)
