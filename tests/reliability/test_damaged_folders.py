"""Damaged output folders: the runtime never loads one, and the message names the file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mutations import Damage, damaged_copy, damages

from ovround.artifact.manifest import ENGINE_FORMATS, MANIFEST
from ovround.errors import ArtifactError
from ovround.runtime import LLM, verification
from ovround.runtime.engines import check_folder, verified

CASES = 150


@pytest.mark.parametrize("engine", ENGINE_FORMATS)
def test_damage_is_found_before_an_engine_sees_it(tiny_folders: dict[str, Path], tmp_path: Path, engine: str) -> None:
    folder, seen = tiny_folders[engine], 0
    for damage in damages(folder, CASES, seed=1):
        if damage.name == MANIFEST:
            continue
        copy, start = damaged_copy(folder, tmp_path / "out", damage), time.process_time()
        with pytest.raises(ArtifactError) as caught:
            LLM(copy)
        assert str(copy / damage.name) in str(caught.value), damage.description
        assert time.process_time() - start < 10
        seen += 1
    assert seen > CASES // 2


@pytest.mark.parametrize("engine", ENGINE_FORMATS)
def test_a_damaged_manifest_is_an_error_or_says_the_same(
    tiny_folders: dict[str, Path], tmp_path: Path, engine: str
) -> None:
    folder = tiny_folders[engine]
    original = check_folder(folder)
    assert original is not None
    refused = accepted = 0
    for damage in damages(folder, CASES * 4, seed=2):
        if damage.name != MANIFEST or damage.content is None:
            continue
        copy = damaged_copy(folder, tmp_path / "out", damage)
        try:
            with verified(copy):
                manifest = check_folder(copy)
            assert manifest is not None
            assert manifest.files.keys() <= original.files.keys(), damage.description
            accepted += 1
        except ArtifactError as error:
            refused += 1
            names = [name for name in (MANIFEST, *original.files) if name in str(error)]
        else:
            names = [MANIFEST]
        assert names, damage.description
    assert refused > accepted
    assert refused + accepted > 20


@pytest.mark.parametrize("engine", ENGINE_FORMATS)
def test_every_changed_byte_of_weights_is_found(tiny_folders: dict[str, Path], tmp_path: Path, engine: str) -> None:
    """The engines themselves accept all of these: the file's size is right and all values are finite."""
    folder = tiny_folders[engine]
    name = {"openvino": "openvino_model.bin", "onnx": "model.onnx.data"}[engine]
    content = (folder / name).read_bytes()
    for at in range(0, len(content), max(len(content) // 40, 1)):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        copy = damaged_copy(folder, tmp_path / "out", Damage(name, "flip", changed))
        with pytest.raises(ArtifactError, match="has changed since it was written"):
            LLM(copy)


def test_the_check_can_be_left_out(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    content = (tiny_folders["onnx"] / "README.md").read_bytes() + b" "
    copy = damaged_copy(tiny_folders["onnx"], tmp_path / "out", Damage("README.md", "", content[1:]))
    with pytest.raises(ArtifactError):
        LLM(copy)
    with LLM(copy, verify=False) as llm:
        assert llm.vocab_size


def test_large_weights_are_compared_beside_the_loading(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `test_every_changed_byte`, with weights that count as large: the check ends after the engine has loaded them."""
    monkeypatch.setattr(verification, "_LARGE_BYTES", 1)
    for engine, name in (("openvino", "openvino_model.bin"), ("onnx", "model.onnx.data")):
        content = bytearray((tiny_folders[engine] / name).read_bytes())
        content[len(content) // 2] ^= 1
        copy = damaged_copy(tiny_folders[engine], tmp_path / "out", Damage(name, "", bytes(content)))
        with pytest.raises(ArtifactError, match="has changed since it was written"):
            LLM(copy)
        with LLM(tiny_folders[engine]) as llm:
            assert llm.vocab_size
