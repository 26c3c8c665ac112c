"""End tokens: the union of what the files name, in transformers' order, decided while converting, the same for every engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import SPECIAL_TOKENS, TEMPLATE, tiny_config, write_checkpoint
from cpp_build import run

from ovround.artifact.manifest import read_manifest
from ovround.conversion.convert import convert
from ovround.conversion.end_tokens import EndTokens, read_end_tokens, turn_end
from ovround.errors import CheckpointError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.model_info import read_model_info
from ovround.runtime.server.served_model import read_served_model
from ovround.source_tokenizer import load_tokenizer

USER, ASSISTANT = SPECIAL_TOKENS.index("<|user|>"), SPECIAL_TOKENS.index("<|assistant|>")
NAMED_IN_TEMPLATE = TEMPLATE.replace("{{ eos_token }}", "<|user|>")


def checkpoint(
    folder: Path, generation: Any = ..., config: Any = ..., eos: str | None = None, template: str | None = None
) -> Path:
    """A checkpoint that names end tokens only where it is asked to; `...` leaves a key out."""
    stated = tiny_config()
    del stated["eos_token_id"]
    write_checkpoint(folder, stated if config is ... else {**stated, "eos_token_id": config})
    path = folder / "generation_config.json"
    path.write_text(json.dumps({} if generation is ... else {"eos_token_id": generation}))
    if generation is ...:
        path.unlink()
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for key, value in (("eos_token", eos), ("chat_template", template)):
        settings.pop(key)
        if value is not None:
            settings[key] = value
    path.write_text(json.dumps(settings))
    return folder


def ends(folder: Path, vocab_size: int = 320) -> EndTokens:
    return read_end_tokens(folder, load_tokenizer(folder), vocab_size)


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"generation": [2, 7]}, (2, 7)),
        ({"generation": 2, "config": [7, 2]}, (2, 7)),
        ({"config": 7, "eos": "</s>"}, (7, 2)),
        ({"eos": "</s>"}, (2,)),
        ({"generation": [3], "config": 7, "eos": "</s>", "template": NAMED_IN_TEMPLATE}, (3, 7, 2)),
        ({"config": 2, "template": NAMED_IN_TEMPLATE}, (2, USER)),
        ({"config": 2, "template": TEMPLATE}, (2,)),  # its eos_token is empty
        ({"generation": [], "config": None, "eos": "</s>"}, (2,)),
        ({"generation": -1, "config": 2}, (2,)),
        ({"generation": [2, 2, 100_000]}, (2,)),
        ({"eos": "no such token"}, ()),
        ({}, ()),
    ],
)
def test_the_union_in_order(where: dict[str, Any], ids: tuple[int, ...], tmp_path: Path) -> None:
    assert ends(checkpoint(tmp_path / "model", **where)).ids == ids


def test_what_no_configuration_names_is_said(tmp_path: Path) -> None:
    assert ends(checkpoint(tmp_path / "stated", config=2, eos="</s>")).notes == ()
    assert ends(checkpoint(tmp_path / "named", eos="</s>")).notes == (
        "answers end at `</s>` (2), which only the tokenizer's files name",
    )
    assert ends(checkpoint(tmp_path / "written", config=2, template=NAMED_IN_TEMPLATE)).notes == (
        f"answers end at `<|user|>` ({USER}), which only the template writes",
    )
    assert ends(checkpoint(tmp_path / "none")).notes == ("no file names an end token: answers end at their length",)


def test_the_default_of_the_tokenizers_class(tmp_path: Path) -> None:
    """GPT2Tokenizer's eos_token is <|endoftext|> where no file says so, as AutoTokenizer finds."""
    folder = checkpoint(tmp_path / "model")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("</s>", "<|endoftext|>"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    assert ends(folder) == EndTokens(
        (2,), ("answers end at `<|endoftext|>` (2), which only the tokenizer's class names",)
    )


@pytest.mark.parametrize("value", ["2", [2, None], True, {"id": 2}])
def test_what_is_no_id_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id is"):
        ends(checkpoint(tmp_path / "model", config=value))


def test_a_template_that_refuses_the_chat_names_nothing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", config=2, template="{{ raise_exception('no') }}")
    assert turn_end(folder, load_tokenizer(folder)) is None


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"eos": "</s>"}, (2,)),
        ({"config": 2, "template": NAMED_IN_TEMPLATE}, (2, USER)),
        ({"generation": [2], "config": [7]}, (2, 7)),
        ({"config": 7}, (7,)),
        ({}, ()),
    ],
    ids=["tokenizer", "template", "both files", "config", "nowhere"],
)
def test_every_engine_ends_at_the_same_tokens(where: dict[str, Any], ids: tuple[int, ...], tmp_path: Path) -> None:
    genai: Any = pytest.importorskip("openvino_genai")
    source = checkpoint(tmp_path / "model", **where)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    formats = ("openvino", "onnx", "compressed-tensors")
    folders = convert(source, tmp_path / "out", ConvertOptions(formats=formats, recipe="rtn")).folders
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    for folder in folders:
        assert read_model_info(folder).end_token_ids == ids
    stated = json.loads((tmp_path / "out/onnx/genai_config.json").read_text())["model"].get("eos_token_id", [])
    assert tuple(stated if isinstance(stated, list) else [stated]) == ids
    config = genai.LLMPipeline(folders[0], "CPU").get_generation_config()
    assert {*config.stop_token_ids} - {-1} == {*ids}
    assert bool(read_manifest(folders[0]).notes) == (set(where) in ({"eos"}, {"config", "template"}, set()))


def test_both_runtimes_stop_where_only_the_template_says(tmp_path: Path) -> None:
    """A token that the model writes becomes the turn's end: answers end there then."""
    source = checkpoint(tmp_path / "model", config=2)
    options = ConvertOptions(formats=("openvino", "onnx"), bits=16, recipe="rtn")
    with LLM(convert(source, tmp_path / "endless", options).folders[0], exact=True) as llm:
        answer = llm.generate("once upon a time", max_new_tokens=8).token_ids
        last = max(answer, key=answer.index)  # the latest to appear
        count = answer.index(last) + 1
        name = next(text for text, token_id in llm.tokenizer.vocabulary().items() if token_id == last)
    parts = json.loads((source / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    parts["added_tokens"].append({"id": last, "content": name, **flags})
    (source / "tokenizer.json").write_text(json.dumps(parts))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATE.replace("{{ eos_token }}", name)
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    for folder in convert(source, tmp_path / "out", options).folders:
        with LLM(folder, exact=True) as llm:
            answer = llm.generate("once upon a time", max_new_tokens=8)
            assert (len(answer.token_ids), answer.finish_reason) == (count, "stop")
    genai: Any = pytest.importorskip("openvino_genai")
    pipeline = genai.LLMPipeline(tmp_path / "out/openvino", "CPU", INFERENCE_PRECISION_HINT="f32")
    generated = pipeline.generate(
        pipeline.get_tokenizer().encode("once upon a time"), max_new_tokens=8, do_sample=False
    )
    assert len(generated.tokens[0]) in (count - 1, count)  # with the end token or without


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cpp_runtime_reads_the_same(tmp_path: Path, programs: Path) -> None:
    source = checkpoint(tmp_path / "model", eos="</s>")
    folder = convert(source, tmp_path / "out", ConvertOptions(bits=16, recipe="rtn")).folders[0]
    done = run(programs / "ovround-run", folder, "once upon a time", "--max-new-tokens", 40)
    with LLM(folder) as llm:
        assert done.stdout.rstrip("\n") == llm.generate("once upon a time", max_new_tokens=40).text.rstrip("\n")


def test_a_folder_of_others_ends_at_its_tokenizers_token(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", eos="</s>")
    folder = convert(source, tmp_path / "out", ConvertOptions(bits=16, recipe="rtn")).folders[0]
    for name in ("generation_config.json", "ovround.json"):
        (folder / name).unlink()
    assert read_model_info(folder).end_token_ids == ()
    assert read_served_model(folder, "name").end_token_ids == {2}
