"""Reads the weights of a converted folder from its files with the help of its manifest."""

from __future__ import annotations

from pathlib import Path

import torch

from ovround.artifact.manifest import read_manifest
from ovround.exporters.formats import open_reader
from ovround.exporters.onnx import external_data
from ovround.exporters.openvino import storage
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

Weight = QTensor | FloatTensor
DATA_FILES = {"openvino": "openvino_model.bin", "onnx": "model.onnx.data"}


def read_weights(folder: Path) -> dict[str, Weight]:
    """All weights in the manifest of `folder`, read from the engine's files."""
    manifest = read_manifest(folder)
    reader = open_reader(manifest.format, folder, {record.name: record for record in manifest.weights})
    weights: dict[str, Weight] = {}
    for record in manifest.weights:
        weight = reader.read(record.name)
        assert isinstance(weight, Weight)
        weights[record.name] = weight
    return weights


def weight_offset(folder: Path, name: str) -> tuple[Path, int]:
    """The data file of `folder`, and the offset of the codes of weight `name` in it."""
    engine = read_manifest(folder).format
    data = folder / DATA_FILES[engine]
    if engine == "openvino":
        return data, storage.read_entries(folder / "openvino_model.xml")[name].offset
    return data, external_data.read_entries(folder / "model.onnx", data.name)[name].offset


def as_torch(weights: dict[str, Weight]) -> dict[str, torch.Tensor]:
    """The weights de-quantised to float32."""
    return {
        name: torch.from_numpy(weight.dequantize() if isinstance(weight, QTensor) else weight.float32())
        for name, weight in weights.items()
    }
