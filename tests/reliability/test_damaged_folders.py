"""Folders that we wrote, damaged in every way: never loaded as if nothing had happened, and the message names the file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mutations import Damage, damaged_copy, damages

from ovround.artifact.manifest import MANIFEST, TARGETS
from ovround.errors import ArtifactError
from ovround.runtime import LLM, verification
from ovround.runtime.engines import check_folder, verified

CASES = 150


@pytest.mark.parametrize("target", TARGETS)
def test_damage_is_found_before_an_engine_sees_it(tiny_folders: dict[str, Path], tmp_path: Path, target: str) -> None:
    folder, seen = tiny_folders[target], 0
    for damage in damages(folder, CASES, seed=1):
        if damage.name == MANIFEST:
            continue
        place, start = damaged_copy(folder, tmp_path / "out", damage), time.process_time()
        with pytest.raises(ArtifactError) as caught:
            LLM(place)
        assert str(place / damage.name) in str(caught.value), damage.what
        assert time.process_time() - start < 10
        seen += 1
    assert seen > CASES // 2


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_manifest_is_an_error_or_says_the_same(
    tiny_folders: dict[str, Path], tmp_path: Path, target: str
) -> None:
    folder = tiny_folders[target]
    original = check_folder(folder)
    assert original is not None
    refused = accepted = 0
    for damage in damages(folder, CASES * 4, seed=2):
        if damage.name != MANIFEST or damage.content is None:
            continue
        place = damaged_copy(folder, tmp_path / "out", damage)
        try:
            with verified(place):
                found = check_folder(place)
            assert found is not None
            assert found.files.keys() <= original.files.keys(), damage.what
            accepted += 1
        except ArtifactError as error:
            refused += 1
            names = [name for name in (MANIFEST, *original.files) if name in str(error)]
        else:
            names = [MANIFEST]
        assert names, damage.what
    assert refused > accepted
    assert refused + accepted > 20


@pytest.mark.parametrize("target", TARGETS)
def test_every_changed_byte_of_weights_is_found(tiny_folders: dict[str, Path], tmp_path: Path, target: str) -> None:
    """The engines accept all of these: the file's size is right, and every number is a number."""
    folder = tiny_folders[target]
    name = {"openvino": "openvino_model.bin", "onnx": "model.onnx.data"}[target]
    content = (folder / name).read_bytes()
    for at in range(0, len(content), max(len(content) // 40, 1)):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        place = damaged_copy(folder, tmp_path / "out", Damage(name, "flip", changed))
        with pytest.raises(ArtifactError, match="has changed since it was written"):
            LLM(place)


def test_the_check_can_be_left_out(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    content = (tiny_folders["onnx"] / "README.md").read_bytes() + b" "
    place = damaged_copy(tiny_folders["onnx"], tmp_path / "out", Damage("README.md", "", content[1:]))
    with pytest.raises(ArtifactError):
        LLM(place)
    with LLM(place, verify=False) as llm:
        assert llm.vocab_size


def test_large_weights_are_compared_beside_the_loading(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `test_every_changed_byte`, where the weights count as large: the engine has loaded, and the model is not given out."""
    monkeypatch.setattr(verification, "_LARGE_BYTES", 1)
    for target, name in (("openvino", "openvino_model.bin"), ("onnx", "model.onnx.data")):
        content = bytearray((tiny_folders[target] / name).read_bytes())
        content[len(content) // 2] ^= 1
        place = damaged_copy(tiny_folders[target], tmp_path / "out", Damage(name, "", bytes(content)))
        with pytest.raises(ArtifactError, match="has changed since it was written"):
            LLM(place)
        with LLM(tiny_folders[target]) as llm:
            assert llm.vocab_size
