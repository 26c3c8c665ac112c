"""`LLM` in an event loop, several answers to one prompt, a chat of one text, and a model by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovround.errors import CheckpointError, UsageError
from ovround.runtime import LLM, Completion


@pytest.fixture(scope="module")
def llm(openvino_folder: Path) -> Iterator[LLM]:
    with LLM(openvino_folder, exact=True, threads=1) as loaded:
        yield loaded


async def text_of(llm: LLM, prompt: str, tokens: int) -> str:
    return "".join([piece.text async for piece in llm.astream(prompt, max_new_tokens=tokens)])


def test_streams_and_answers_of_one_loop_wait_for_each_other(llm: LLM) -> None:
    expected = llm.generate("the cat", max_new_tokens=12)

    async def together() -> tuple[str, str, Completion, Completion]:
        return await asyncio.gather(
            text_of(llm, "the cat", 12),
            text_of(llm, "once upon", 5),
            llm.agenerate("the cat", max_new_tokens=12),
            llm.achat("the cat", max_new_tokens=4),
        )

    for _ in range(2):  # a second event loop
        first, second, answer, chat = asyncio.run(together())
        assert first == answer.text == expected.text
        assert second == llm.generate("once upon", max_new_tokens=5).text
        assert chat.text == llm.chat([{"role": "user", "content": "the cat"}], max_new_tokens=4).text


def test_the_loop_runs_between_tokens_and_leaving_it_cancels(llm: LLM) -> None:
    async def main() -> tuple[int, int]:
        ticks, pieces = 0, 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        stream = llm.astream("the cat", max_new_tokens=40)
        async for _ in stream:
            pieces += 1
            if pieces == 3:
                break
        await stream.aclose()  # type: ignore[attr-defined]  # of the generator behind the iterator
        ticking.cancel()
        assert (await llm.agenerate("the cat", max_new_tokens=3)).finish_reason == "length"
        return ticks, pieces

    ticks, pieces = asyncio.run(main())
    assert ticks > pieces == 3


def test_errors_are_raised_by_the_loop(llm: LLM) -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        asyncio.run(llm.agenerate("x", max_tokens=3))  # type: ignore[call-arg]

    async def stream() -> None:
        async for _ in llm.astream_chat("x", temperature=-1):
            pass

    with pytest.raises(UsageError, match="temperature"):
        asyncio.run(stream())


def test_n_answers_have_consecutive_seeds(llm: LLM) -> None:
    options = {"temperature": 1.5, "max_new_tokens": 8}
    answers = llm.generate("the cat", n=3, seed=4, **options)  # type: ignore[call-overload]
    assert [answer.text for answer in answers] == [
        llm.generate("the cat", seed=seed, **options).text for seed in (4, 5, 6)
    ]  # type: ignore[call-overload]
    assert len({answer.text for answer in answers}) > 1
    assert len(llm.generate(["a", "the"], n=2, max_new_tokens=2)) == 4
    assert len(llm.chat("the cat", n=2, max_new_tokens=2)) == 2
    with pytest.raises(UsageError, match="n is 0"):
        llm.generate("x", n=0)


def test_a_model_by_its_name_is_converted_once(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVROUND_CACHE", str(tmp_path / "cache"))
    with LLM(tiny_source, threads=1) as first:
        text = first.generate("the cat", max_new_tokens=6).text
    assert "ovround convert" in capsys.readouterr().err
    with LLM(str(tiny_source), threads=1) as second:
        assert second.generate("the cat", max_new_tokens=6).text == text
    assert len(list((tmp_path / "cache").rglob("openvino_model.xml"))) == 1
    with pytest.raises(CheckpointError, match="is not there"):
        LLM(tmp_path / "nowhere")
