"""Damaged checkpoints: each is refused quickly with an error that names a file or a tensor, or the damage does not matter."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from checkpoint_writer import write_checkpoint
from mutations import damaged_copy, damages
from quantised_folder import quantised_folder

from ovround.checkpoint import Checkpoint, open_source
from ovround.conversion.convert import convert
from ovround.conversion.preparation import prepare
from ovround.errors import CheckpointError, OvroundError
from ovround.options.convert_options import ConvertOptions

CASES = 150
NAMED = re.compile(
    r"\w+\.(json|safetensors|txt|jinja|model)|tensor `|`model\.|`lm_head|quantization_config|quant_method|token"
    r"|^\w+ (is|are) |model_type|heads|head_dim"
)


@pytest.fixture(scope="module", params=["float", "sharded", "gptq"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    if request.param == "gptq":
        return quantised_folder(root, {})
    return write_checkpoint(root / "model", shards=2 if request.param == "sharded" else 1)


def test_a_damaged_checkpoint_is_refused_or_is_the_same(source: Path, tmp_path: Path) -> None:
    options = ConvertOptions(formats=("onnx",), recipe="rtn", group_size=32)
    refused, slow = 0, []
    seen = 0
    for damage in damages(source, CASES, seed=3):
        copy, start = damaged_copy(source, tmp_path / "model", damage), time.process_time()
        seen += 1
        message = ""
        try:
            job = prepare(str(copy), tmp_path / "out", options)
            (job.quantised or job.checkpoint).scan()
        except OvroundError as error:
            message = str(error)
            refused += 1
        assert not message or NAMED.search(message), (damage.description, message)
        assert len(message) < 2000, damage.description
        if time.process_time() - start > 10:
            slow.append(damage.description)
    assert not slow
    assert refused > seen // 3
    assert not (tmp_path / "out").exists()


def test_inspect_of_any_damage_is_quick(source: Path, tmp_path: Path) -> None:
    for damage in damages(source, CASES // 3, seed=4):
        copy, start = damaged_copy(source, tmp_path / "model", damage), time.process_time()
        try:
            opened = open_source(copy)
            stored = opened if isinstance(opened, Checkpoint) else opened.stored
            assert stored.size_bytes() >= 0
        except OvroundError:
            pass
        assert time.process_time() - start < 2, damage.description


def test_a_changed_weight_of_a_checkpoint_that_we_wrote_is_found(tiny_source: Path, tmp_path: Path) -> None:
    (folder,) = convert(
        tiny_source, tmp_path / "a", ConvertOptions(formats=("gptq",), recipe="rtn", group_size=32)
    ).folders
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors` has changed since it was written"):
        convert(folder, tmp_path / "b", ConvertOptions(formats=("onnx",)))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
