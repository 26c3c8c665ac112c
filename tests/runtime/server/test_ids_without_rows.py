"""A tokenizer with more ids than the embedding has rows: converted with a note; only a prompt that holds such an id is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import tiny_config, tokenizer_json, write_checkpoint
from cpp_build import run

from ovround.artifact.manifest import read_manifest
from ovround.conversion.convert import convert
from ovround.errors import CalibrationError, GenerationError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM

ROWS = len(json.loads(tokenizer_json())["model"]["vocab"])
PAD = ROWS  # the next id, which a fine-tune gave without a row
PLAIN, ODD = "once upon a time", "once upon[PAD] a time"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("pad") / "source", tiny_config(vocab_size=ROWS))
    path = folder / "tokenizer.json"
    parts = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    parts["added_tokens"].append({"id": PAD, "content": "[PAD]", **flags, "special": True})
    path.write_text(json.dumps(parts))
    return folder


@pytest.fixture(scope="module")
def folders(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    options = ConvertOptions(formats=("openvino", "onnx", "auto_round"), recipe="rtn")
    written = convert(source, tmp_path_factory.mktemp("pad") / "out", options).folders
    return {folder.name: folder for folder in written}


def test_the_conversion_names_the_token(folders: dict[str, Path]) -> None:
    (note,) = read_manifest(folders["openvino"]).notes
    assert note == (
        f"the tokenizer has `[PAD]` ({PAD}) beyond the {ROWS} rows of the embedding: "
        "a prompt that holds such a token is refused"
    )


@pytest.mark.parametrize(("name", "device"), [("openvino", "CPU"), ("onnx", "CPU"), ("auto_round", "hpu-emulated")])
def test_only_a_prompt_that_holds_it_is_an_error(folders: dict[str, Path], name: str, device: str) -> None:
    with LLM(folders[name], device, exact=True) as llm:
        assert PAD in llm.tokenizer.encode(ODD)
        message = f"token id {PAD}; the vocabulary has 0 to {ROWS - 1}"
        for refused in (llm.generate, llm.stream):
            with pytest.raises(GenerationError, match=message):
                refused(ODD, max_new_tokens=2)
        with pytest.raises(GenerationError, match=message):
            llm.chat([{"role": "user", "content": ODD}], max_new_tokens=2)
        assert len(llm.generate(PLAIN, max_new_tokens=2, ignore_eos=True).token_ids) == 2
        assert llm.tokenizer.decode([PAD], skip_special_tokens=False) == "[PAD]"


def test_a_grammar_is_followed_all_the_same(folders: dict[str, Path]) -> None:
    pytest.importorskip("llguidance")
    from ovround.runtime.decoding.grammar import Grammar

    with LLM(folders["onnx"], exact=True, threads=1) as llm:
        assert llm.generate(PLAIN, max_new_tokens=4, grammar=Grammar("regex", "ab")).text == "ab"


@pytest.mark.parametrize("engine", ["batching", "single"])
def test_the_server_refuses_the_prompt_and_stays(
    folders: dict[str, Path], engine: str, serve_folder: Callable[..., AbstractContextManager[Any]]
) -> None:
    with serve_folder(folders["openvino"], engine=engine) as served:
        for _ in range(2):
            status, answer, _ = served.request("POST", "/v1/completions", {"prompt": ODD, "max_tokens": 2})
            assert status == 400
            assert answer["error"]["message"] == f"token id {PAD}; the vocabulary has 0 to {ROWS - 1}"
            status, _, _ = served.request("POST", "/v1/completions", {"prompt": [5, PAD], "max_tokens": 2})
            assert status == 400
            assert served.request("POST", "/v1/completions", {"prompt": PLAIN, "max_tokens": 2})[0] == 200


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cpp_runtime_refuses_it_too(folders: dict[str, Path], programs: Path) -> None:
    refused, answered = (
        run(programs / "ovround-run", folders["openvino"], text, "--max-new-tokens", 2) for text in (ODD, PLAIN)
    )
    assert f"token id {PAD}; the vocabulary has 0 to {ROWS - 1}" in refused.stderr
    assert (refused.returncode != 0, answered.returncode) == (True, 0)


def test_a_text_to_tune_on_may_not_hold_it(source: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(f"{PLAIN} " * 400 + "[PAD]")
    options = ConvertOptions(calibration=(text,), iters=1, nsamples=4, seqlen=16)
    with pytest.raises(CalibrationError, match=f"gives token {PAD}; the model has {ROWS}"):
        convert(source, tmp_path / "out", options)


def test_a_tokenizer_with_many_more_ids_is_said_to_be_odd(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    from ovround.source_tokenizer import ids_without_rows

    other = Tokenizer(models.WordLevel({f"w{number}": number for number in range(5000)}))
    assert ids_without_rows(other, 5000) == ()
    (note,) = ids_without_rows(other, 320)
    assert note.startswith("the tokenizer has 4680 tokens from `w320` (320) on beyond the 320 rows")
    assert note.endswith("tokenizer.json may belong to another model")
