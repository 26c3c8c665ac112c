"""What a local path stands for: files of a folder, the hub's cache, other layouts, pointers; and files that are no model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from random_model import CONFIGS, write_random_model

from ovround.checkpoint import locate, open_source
from ovround.conversion.end_tokens import read_generation, write_end_tokens
from ovround.errors import CheckpointError, OvroundError
from ovround.models import from_config

CONFIG = CONFIGS["llama-0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "model #1 %20"
    write_random_model(folder, CONFIG)
    return folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_a_model_stands_for_its_folder(model: Path, name: str) -> None:
    assert locate(str(model / name)) == model


def test_a_folder_of_the_hubs_cache_stands_for_its_snapshot(model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    for commit in ("abc", "def"):
        (repository / "snapshots" / commit).symlink_to(model)
    with pytest.raises(CheckpointError, match="2 snapshots"):
        locate(str(repository))
    (repository / "refs" / "main").write_text("def\n")
    assert locate(str(repository)) == repository / "snapshots" / "def"
    (repository / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(CheckpointError, match="2 snapshots"):
        locate(str(repository))


def test_a_gguf_file_under_any_name(tmp_path: Path) -> None:
    blob = tmp_path / "sha256-0123"
    blob.write_bytes(b"GGUF" + bytes(40))
    assert locate(str(blob)) == blob


@pytest.mark.parametrize(
    ("files", "said", "hint"),
    [
        ({"ggml-model-q4_0.bin": b"tjgg" + bytes(40)}, "the format that llama.cpp had before GGUF", "GGUF file"),
        ({"notes.txt": b"text"}, "is no file of a model", "give a model folder"),
        ({"params.json": b"{}", "consolidated.safetensors": b""}, "Mistral's own layout", "config.json"),
        ({"params.json": b"{}", "consolidated.00.pth": b""}, "Meta's own layout", "config.json"),
        ({"checkpoint-9/config.json": b"{}", "checkpoint-10/config.json": b"{}"}, "a training run with 2", "checkpoint-10"),
    ],
)  # fmt: skip
def test_what_is_no_model_folder_is_named(tmp_path: Path, files: dict[str, bytes], said: str, hint: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    first = next(iter(files))
    named = tmp_path if "/" in first or "params.json" in files else tmp_path / first
    with pytest.raises(CheckpointError, match=said) as raised:
        locate(str(named))
    assert hint in (raised.value.hint or "")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.gguf"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    write_random_model(tmp_path, CONFIG)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(OvroundError) as raised:
        open_source(tmp_path / name if name.endswith("gguf") else tmp_path)
    assert f"git lfs pull` in {tmp_path}" in (raised.value.hint or "")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    write_random_model(tmp_path, CONFIG)
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert from_config(open_source(tmp_path).config)


def test_a_damaged_generation_config_is_left_out_as_transformers_does(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text('{"eos_token_id": 2,}')
    content, said = read_generation(tmp_path)
    assert (content, len(said)) == ({}, 1)
    write_end_tokens(tmp_path, [5])
    assert json.loads(path.read_text())["eos_token_id"] == 5


def test_a_config_without_model_type_says_so() -> None:
    with pytest.raises(OvroundError, match="states no model_type") as raised:
        from_config({"architectures": ["LlamaForCausalLM"]})
    assert "LlamaForCausalLM" in (raised.value.hint or "")


def test_a_classifier_is_named(tmp_path: Path) -> None:
    write_random_model(tmp_path, {**CONFIG, "architectures": ["LlamaForSequenceClassification"]})
    checkpoint = open_source(tmp_path)
    expected = dict.fromkeys(["score.absent.weight"], (1, 1))
    with pytest.raises(OvroundError) as raised:
        checkpoint.check(expected)
    assert "writes no text" in (raised.value.hint or "")
