"""Models whose state has a fixed size, in the C++ runtime: Python's tokens, with kept caches, guesses, batches and beams."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cpp_build import replay
from random_model import CONFIGS, write_random_model

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM

TEXT = "one two three one two three one two"
REQUESTS: list[dict[str, Any]] = [
    {"prompt": TEXT, "options": {"max_new_tokens": 24, "ignore_eos": True}},
    {"prompt": f"{TEXT} four", "options": {"max_new_tokens": 8, "ignore_eos": True}},  # begins as the last one did
    {"prompt": "lion " * 300, "options": {"max_new_tokens": 4, "ignore_eos": True}},  # more than a piece of a prompt
    {"prompts": [TEXT, "a b", "x y z w"], "options": {"max_new_tokens": 8, "ignore_eos": True}},
    {"prompt": TEXT, "options": {"max_new_tokens": 6, "num_beams": 3, "ignore_eos": True}},
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A convolution, a scan and attention in each block, in both formats, with tokenizer graphs."""
    folder = tmp_path_factory.mktemp("hybrid")
    write_random_model(folder / "model", {**CONFIGS["falcon_h1-0"], "max_position_embeddings": 2048})
    options = ConvertOptions(formats=("openvino", "onnx"), group_size=32, recipe="rtn")
    openvino, onnx = convert(folder / "model", folder / "out", options).folders
    for graph in openvino.glob("openvino_*tokenizer.*"):
        shutil.copy(graph, onnx)
    return {"openvino": openvino, "onnx": onnx}


@pytest.mark.parametrize("load", [{"prefix_cache": True}, {"prompt_lookup": True}], ids=["prefix", "lookup"])
@pytest.mark.parametrize("format_name", ["openvino", "onnx"])
def test_tokens_are_those_of_python(
    programs: Path, folders: dict[str, Path], format_name: str, load: dict[str, Any]
) -> None:
    answers = replay(programs, folders[format_name], REQUESTS, load)
    with LLM(folders[format_name], exact=True, threads=1, **load) as llm:
        for request, answer in zip(REQUESTS, answers, strict=True):
            if "prompts" in request:
                batch = llm.generate(request["prompts"], **request["options"])
                assert [given["token_ids"] for given in answer] == [list(one.token_ids) for one in batch]
            else:
                expected = llm.generate(request["prompt"], **request["options"])
                assert answer["token_ids"] == list(expected.token_ids), request
