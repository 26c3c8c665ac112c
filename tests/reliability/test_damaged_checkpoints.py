"""Checkpoints damaged in every way: an error of ours in time, that names a file or a tensor; or nothing that matters changed."""

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
    place = tmp_path_factory.mktemp("source")
    if request.param == "gptq":
        return quantised_folder(place, {})
    return write_checkpoint(place / "model", shards=2 if request.param == "sharded" else 1)


def test_a_damaged_checkpoint_is_refused_or_is_the_same(source: Path, tmp_path: Path) -> None:
    options = ConvertOptions(formats=("onnx",), recipe="rtn", group_size=32)
    refused, slow = 0, []
    seen = 0
    for damage in damages(source, CASES, seed=3):
        place, start = damaged_copy(source, tmp_path / "model", damage), time.process_time()
        seen += 1
        said = ""
        try:
            job = prepare(str(place), tmp_path / "out", options)
            (job.quantised or job.checkpoint).scan()
        except OvroundError as error:
            said = str(error)
            refused += 1
        assert not said or NAMED.search(said), (damage.what, said)
        assert len(said) < 2000, damage.what
        if time.process_time() - start > 10:
            slow.append(damage.what)
    assert not slow
    assert refused > seen // 3
    assert not (tmp_path / "out").exists()


def test_inspect_of_any_damage_is_quick(source: Path, tmp_path: Path) -> None:
    for damage in damages(source, CASES // 3, seed=4):
        place, start = damaged_copy(source, tmp_path / "model", damage), time.process_time()
        try:
            opened = open_source(place)
            stored = opened if isinstance(opened, Checkpoint) else opened.stored
            assert stored.size_bytes() >= 0
        except OvroundError:
            pass
        assert time.process_time() - start < 2, damage.what


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
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
