"""Verification of every format: the folder is read back from its manifest, and the smallest corruption is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ovround.artifact.manifest import CHECKPOINT_FORMATS, FORMATS, read_manifest
from ovround.checkpoint.files.safetensors_file import open_safetensors
from ovround.checkpoint.gguf.header import read_header
from ovround.conversion.convert import convert, verify
from ovround.errors import VerifyError
from ovround.exporters.formats import open_reader
from ovround.exporters.onnx import external_data
from ovround.exporters.openvino import storage
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.tensors.scheme import Codebooks

MODULE = "model.layers.1.mlp.up_proj"
# The suffixes of codes and scales, and how many bytes a scale has.
PARTS = {
    "openvino": (".weight", ".weight/scale", 2),
    "onnx": (".weight", ".weight/scales", 4),
    "auto_round": (".qweight", ".scales", 2),
    "gptq": (".qweight", ".scales", 2),
    "awq": (".qweight", ".scales", 2),
    "compressed-tensors": (".weight_packed", ".weight_scale", 2),
    "olive": (".qweight", ".scales", 2),
    "aqlm": (".codes", ".scales", 2),
    "gguf": (".weight", ".weight", 20),  # blocks of both
}


@pytest.fixture(scope="module")
def folders(tiny_source: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoint in every format."""
    out = tmp_path_factory.mktemp("formats")
    integer_formats = tuple(name for name in FORMATS if name != "aqlm")
    written = convert(
        tiny_source, out / "grids", ConvertOptions(formats=integer_formats, group_size=32, sym=False, recipe="rtn")
    )
    coded = ConvertOptions(
        formats=("aqlm",), codebooks=Codebooks(2, 3, 4), iters=1, nsamples=8, seqlen=32, calibration=(text_file,),
        tuning=TuningOptions(end_to_end_steps=0),
    )  # fmt: skip
    return {
        **dict(zip(integer_formats, written.folders, strict=True)),
        "aqlm": convert(tiny_source, out / "aqlm", coded).folders[0],
    }


def locate(format_name: str, folder: Path, tensor: str) -> tuple[Path, int, int]:
    """The file that holds a stored tensor, where its bytes begin there, and how many there are."""
    if format_name == "openvino":
        entry = storage.read_entries(folder / storage.GRAPH_FILE)[tensor]
        return folder / storage.WEIGHTS_FILE, entry.offset, entry.size_bytes
    if format_name == "onnx":
        name = tensor.replace("up_proj", "gate_up_proj")  # rows of it
        entries = external_data.read_entries(folder / external_data.GRAPH_FILE, external_data.WEIGHTS_FILE)
        assert name in entries
        return folder / external_data.WEIGHTS_FILE, entries[tensor].offset, entries[tensor].size_bytes
    if format_name == "gguf":
        entry = read_header(folder / "model.gguf").tensors["blk.1.ffn_up.weight"]
        return entry.path, entry.offset, entry.size_bytes
    info = open_safetensors(folder / "model.safetensors").tensors[tensor]
    return folder / "model.safetensors", info.offset, info.size_bytes


def damaged_copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_written_folder_is_read_from_its_manifest(folders: dict[str, Path], format_name: str) -> None:
    manifest = read_manifest(folders[format_name])
    verify(format_name, folders[format_name], manifest.weights)
    assert any(record.name == f"{MODULE}.weight" and record.group_size for record in manifest.weights)


@pytest.mark.parametrize("format_name", FORMATS)
def test_one_wrong_nibble_is_named(folders: dict[str, Path], tmp_path: Path, format_name: str) -> None:
    folder = damaged_copy(folders[format_name], tmp_path)
    path, offset, size = locate(format_name, folder, MODULE + PARTS[format_name][0])
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(VerifyError, match=rf"`{MODULE}\.weight` (read back from|cannot be read back)"):
        verify(format_name, folder, read_manifest(folder).weights)


@pytest.mark.parametrize("format_name", FORMATS)
def test_two_swapped_groups_are_named(folders: dict[str, Path], tmp_path: Path, format_name: str) -> None:
    folder = damaged_copy(folders[format_name], tmp_path)
    _, suffix, width = PARTS[format_name]
    path, offset, size = locate(format_name, folder, MODULE + suffix)
    content = np.fromfile(path, np.uint8)
    scales = content[offset : offset + size].reshape(-1, width)
    other = next(index for index in range(1, len(scales)) if (scales[index] != scales[0]).any())
    scales[[0, other]] = scales[[other, 0]]
    content.tofile(path)
    with pytest.raises(VerifyError, match=rf"`{MODULE}\.weight` read back from `damaged` is not what was written"):
        verify(format_name, folder, read_manifest(folder).weights)


@pytest.mark.parametrize("format_name", CHECKPOINT_FORMATS)
def test_a_configuration_that_does_not_fit_the_tensors(
    folders: dict[str, Path], tmp_path: Path, format_name: str
) -> None:
    folder = damaged_copy(folders[format_name], tmp_path)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    with pytest.raises(VerifyError, match=r"cannot be read back: .*does not call for"):
        open_reader(format_name, folder, {record.name: record for record in read_manifest(folder).weights})
