"""`LLM` on both engines: answers, streams, chats, batches, stop strings, and whose turn it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ovround.errors import EngineError, GenerationError, OvroundError, UsageError
from ovround.runtime import LLM, Completion, SamplingOptions

Reference = Callable[[list[int]], NDArray[np.float32]]
PROMPTS = ["once upon a time", "the cat", "", "a story of the little mat 日本"]


@pytest.fixture(scope="module")
def models(openvino_folder: Path, onnx_folder: Path) -> Iterator[dict[str, LLM]]:
    folders = {"openvino": openvino_folder, "onnx": onnx_folder}
    loaded = {name: LLM(folder, exact=True, threads=1) for name, folder in folders.items()}
    yield loaded
    for llm in loaded.values():
        llm.close()


@pytest.fixture(params=["openvino", "onnx"])
def llm(request: pytest.FixtureRequest, models: dict[str, LLM]) -> LLM:
    return models[request.param]


def greedy(reference: Reference, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(reference(ids)[-1].argmax()))
        if ids[-1] == 2:
            break
    return ids[len(prompt) :]


def same(ours: Completion, theirs: Completion) -> bool:
    return (ours.text, ours.token_ids, ours.finish_reason) == (theirs.text, theirs.token_ids, theirs.finish_reason)


def test_greedy_is_torch_s_greedy(llm: LLM, reference: Reference) -> None:
    for prompt in PROMPTS:
        ids = llm.tokenizer.encode(prompt)
        answer = llm.generate(prompt, max_new_tokens=24)
        assert list(answer.token_ids) == greedy(reference, ids, 24)
        assert answer.text == llm.tokenizer.decode(answer.token_ids)
        assert (answer.prompt_tokens, answer.usage.completion_tokens) == (len(ids), len(answer.token_ids))


def test_a_list_is_answered_as_its_prompts_alone(llm: LLM) -> None:
    for options in (SamplingOptions(max_new_tokens=20), SamplingOptions(20, temperature=1.5, top_k=40, seed=3)):
        alone = [llm.generate(prompt, options) for prompt in PROMPTS]
        assert len({answer.text for answer in alone}) > 1
        for size in (1, 3, 8):
            together = llm.generate(PROMPTS, options, batch_size=size)
            assert all(same(ours, theirs) for ours, theirs in zip(together, alone, strict=True))
    assert llm.generate([]) == []


def test_a_seed_repeats_and_another_does_not(llm: LLM) -> None:
    first, again, other = (llm.generate("the", temperature=1.0, seed=seed, max_new_tokens=16) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_a_stream_is_the_answer_in_pieces(llm: LLM) -> None:
    answer = llm.generate("the cat", max_new_tokens=16, temperature=1.0, seed=4)
    pieces = list(llm.stream("the cat", max_new_tokens=16, temperature=1.0, seed=4))
    assert "".join(piece.text for piece in pieces) == answer.text
    assert tuple(piece.token_id for piece in pieces) == answer.token_ids
    assert [piece.finish_reason for piece in pieces] == [None] * 15 + ["length"]
    assert pieces[-1].usage == answer.usage
    assert pieces[-1].timings is not None
    assert pieces[-1].timings.time_per_output_token_s is not None
    assert all(piece.usage is None and piece.timings is None for piece in pieces[:-1])


def test_stop_strings_end_the_answer_before_them(llm: LLM) -> None:
    whole = llm.generate("the cat", max_new_tokens=30, temperature=2.0, seed=8)
    assert len(whole.text) > 6
    for start in range(3, len(whole.text) - 3):
        stop = whole.text[start : start + 3]
        expected = whole.text[: whole.text.find(stop)]
        cut = llm.generate("the cat", max_new_tokens=30, temperature=2.0, seed=8, stop=["never this", stop])
        assert (cut.text, cut.finish_reason) == (expected, "stop")
        assert len(cut.token_ids) <= len(whole.token_ids)
        streamed = "".join(piece.text for piece in llm.stream("the cat", temperature=2.0, seed=8, stop=stop))
        assert streamed == expected


def test_one_row_may_stop_while_others_go_on(llm: LLM) -> None:
    options = SamplingOptions(max_new_tokens=30, temperature=2.0, seed=8)
    alone = [llm.generate(prompt, options) for prompt in PROMPTS]
    stop = alone[1].text[4:7]
    together = llm.generate(PROMPTS, options, stop=stop)
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.text == theirs.text.partition(stop)[0]


def test_an_end_token_ends_and_has_no_text(llm: LLM) -> None:
    first = llm.generate("once", max_new_tokens=8)
    token = first.token_ids[3]
    cut = llm.generate("once", max_new_tokens=8, stop_token_ids=[token])
    assert cut.finish_reason == "stop"
    assert cut.token_ids == first.token_ids[: first.token_ids.index(token) + 1]


def test_a_special_token_may_be_a_stop_string(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = llm.generate("once", max_new_tokens=8).token_ids
    monkeypatch.setattr(llm.tokenizer, "special_id", {"<|user|>": tokens[2]}.get)
    cut = llm.generate("once", max_new_tokens=8, stop="<|user|>")
    assert cut.token_ids == tokens[: tokens.index(tokens[2]) + 1]


def test_a_chat_is_its_rendered_prompt(llm: LLM) -> None:
    messages = [{"role": "user", "content": "the cat"}]
    prompt = llm.tokenizer.render_chat(messages)
    assert prompt == "<s><|user|>the cat</s><|assistant|>"
    answer = llm.chat(messages, max_new_tokens=8)
    assert answer.prompt_tokens == len(llm.tokenizer.encode(prompt, add_special_tokens=False))
    assert "".join(piece.text for piece in llm.stream_chat(messages, max_new_tokens=8)) == answer.text
    with pytest.raises(UsageError, match="messages"):
        llm.chat([])


def test_logits_are_the_engine_s(llm: LLM, reference: Reference) -> None:
    ids = np.array([[1, 5, 9, 30]])
    assert np.abs(llm.logits(ids) - reference([1, 5, 9, 30])).max() < 1e-4
    with pytest.raises(UsageError, match="shape"):
        llm.logits(ids[0])


def test_overflow_gives_both_numbers(llm: LLM) -> None:
    long = "the cat " * 700
    tokens = len(llm.tokenizer.encode(long))
    with pytest.raises(GenerationError, match=f"{tokens + 1}.*{llm.context_length}"):
        llm.generate(long)
    with pytest.raises(GenerationError, match=r"max_new_tokens 640.*640"):
        llm.stream("the", max_new_tokens=640)  # at the call, not at the first piece
    filled = llm.generate("the", ignore_eos=True)
    assert filled.usage.prompt_tokens + filled.usage.completion_tokens == llm.context_length
    assert filled.finish_reason == "length"


def test_wrong_options_are_named(llm: LLM) -> None:
    for wrong, meant in (
        ("max_tokens", "max_new_tokens"),
        ("temprature", "temperature"),
        ("max_length", "max_new_tokens"),
    ):
        arguments: dict[str, Any] = {wrong: 3}
        with pytest.raises(UsageError, match=f"`{wrong}` is no option of an answer") as caught:
            llm.generate("x", **arguments)
        assert caught.value.hint == f"did you mean `{meant}`?"
    with pytest.raises(UsageError, match="max_new_tokens is -5"):
        llm.generate("x", max_new_tokens=-5)
    with pytest.raises(UsageError, match="batch_size"):
        llm.generate(["x"], batch_size=0)
    for prompt in (b"x", 3, None, ["x", 3], {"role": "user"}):
        wrong: Any = prompt
        with pytest.raises(UsageError):
            llm.generate(wrong)


def test_a_new_request_takes_over_from_a_stream(llm: LLM) -> None:
    stream = llm.stream("the cat", max_new_tokens=16)
    next(stream)
    answer = llm.generate("once", max_new_tokens=4)
    with pytest.raises(GenerationError, match="newer request"):
        next(stream)
    assert same(llm.generate("once", max_new_tokens=4), answer)


def test_leaving_a_stream_leaves_the_model_usable(llm: LLM) -> None:
    expected = llm.generate("once", max_new_tokens=4)
    for _ in llm.stream("the cat", max_new_tokens=16):
        break
    assert same(llm.generate("once", max_new_tokens=4), expected)


def test_threads_wait_for_each_other(llm: LLM) -> None:
    expected = {prompt: llm.generate(prompt, max_new_tokens=12).text for prompt in PROMPTS}
    answers: list[tuple[str, str]] = []

    def work(prompt: str) -> None:
        answers.extend((prompt, llm.generate(prompt, max_new_tokens=12).text) for _ in range(4))

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16
    assert all(expected[prompt] == text for prompt, text in answers)


def test_closing(folder: Path) -> None:
    with LLM(folder) as llm:
        llm.generate("the", max_new_tokens=2)
    with pytest.raises(EngineError, match="closed"):
        llm.generate("the", max_new_tokens=2)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OvroundError, match="nowhere"):
        LLM(tmp_path / "nowhere")


def test_a_seeded_answer_does_not_begin_from_the_cache(openvino_folder: Path) -> None:
    """The cache's rounding (8 bits unless `exact`) would change a seed's answer when its prompt comes again."""
    with LLM(openvino_folder, threads=1, prefix_cache=True) as llm:
        seeded = SamplingOptions(12, temperature=1.5, seed=3)
        answers = [llm.generate("once upon a time the cat", seeded) for _ in range(3)]
        assert [answer.usage.cached_tokens for answer in answers] == [0, 0, 0]
        assert len({answer.token_ids for answer in answers}) == 1
        assert list(llm.stream("once upon a time the cat", seeded))[-1].usage.cached_tokens == 0  # type: ignore[union-attr]
        assert llm.generate("once upon a time the cat", SamplingOptions(12)).usage.cached_tokens > 0
