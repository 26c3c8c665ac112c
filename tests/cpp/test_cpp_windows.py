"""A sliding window sees its whole length after tokens were taken back, in the C++ runtime: Python's tokens and logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cpp_build import replay
from random_model import CONFIGS, write_random_model

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM

SHARED = "one two three one two three one two"
ENDINGS = [" four five six seven eight nine ten", " lion", " a b c d e f g h", " x"]  # each takes the last one's back
REQUESTS: list[dict[str, Any]] = [
    {"prompt": SHARED + ending, "options": {"max_new_tokens": 24, "ignore_eos": True, "logprobs": 0}}
    for ending in ENDINGS
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A window of 12 in two of three layers, with nothing rounded that could hide a difference, and a bad draft of it."""
    folder = tmp_path_factory.mktemp("windowed")
    options = ConvertOptions(formats=("openvino",), bits=16)
    for name in ("gemma3_text-0", "mistral-0"):
        write_random_model(folder / name / "model", CONFIGS[name])
        convert(folder / name / "model", folder / name / "out", options)
    return [folder / name / "out" for name in ("gemma3_text-0", "mistral-0")]


@pytest.mark.parametrize("drafts", [False, True], ids=["prefix", "draft"])
def test_tokens_after_a_rewind_are_those_of_python(programs: Path, folders: list[Path], drafts: bool) -> None:
    """Those of a cache in which nothing was taken back, too."""
    windowed, draft = folders
    load: dict[str, Any] = {"draft_model": str(draft), "draft_tokens": 3} if drafts else {"prefix_cache": True}
    answers = list(replay(programs, windowed, REQUESTS, load))
    with LLM(windowed, exact=True, threads=1, **load) as llm, LLM(windowed, exact=True, threads=1) as plain:
        for request, answer in zip(REQUESTS, answers, strict=True):
            for other in (llm, plain):
                expected = other.generate(request["prompt"], **request["options"])
                assert answer["token_ids"] == list(expected.token_ids), request
                assert expected.logprobs is not None
                likely = [position.logprob for position in expected.logprobs]
                assert [position["logprob"] for position in answer["logprobs"]] == pytest.approx(likely, abs=1e-3)
    taken_back = [answer["cached_tokens"] or answer["drafted_tokens"] > answer["accepted_tokens"] for answer in answers]
    assert all(taken_back[1:])
