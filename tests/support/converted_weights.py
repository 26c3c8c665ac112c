"""Reads the weights of a converted folder back from its files, by its manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ovround.artifact.manifest import WeightRecord, read_manifest
from ovround.exporters.onnx import external_data, matmul_nbits
from ovround.exporters.openvino import compressed, constants
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

Weight = QTensor | FloatTensor
DATA_FILES = {"openvino": "openvino_model.bin", "onnx": "model.onnx.data"}


def read_weights(folder: Path) -> dict[str, Weight]:
    """Every weight that the manifest of `folder` names, from the engine's own files."""
    manifest = read_manifest(folder)
    data = folder / DATA_FILES[manifest.target]
    found: dict[str, Weight] = {}
    with data.open("rb") as source:
        if manifest.target == "openvino":
            entries = constants.read_entries(folder / "openvino_model.xml")
            for record in manifest.weights:
                stored = compressed.Stored(record.bits, record.symmetric) if record.group_size else None
                found[record.name] = compressed.read_weight(source, entries, record.name, stored)
        else:
            initializers = external_data.read_entries(folder / "model.onnx", data.name)
            for record in manifest.weights:
                layout = matmul_nbits.layout_of(blank(record)) if record.group_size else None
                found[record.name] = matmul_nbits.read_weight(source, initializers, record.name, layout)
    return found


def blank(record: WeightRecord) -> QTensor:
    """A weight of the record's shape and grid, all zeros."""
    rows, columns = record.shape
    groups = columns // record.group_size
    zero_points = None if record.symmetric else np.zeros((rows, groups), np.uint8)
    return QTensor(np.zeros((rows, columns), np.uint8), np.ones((rows, groups), np.float16), zero_points, record.bits)


def weight_offset(folder: Path, name: str) -> tuple[Path, int]:
    """The data file of `folder` and where the codes of weight `name` begin in it."""
    target = read_manifest(folder).target
    data = folder / DATA_FILES[target]
    if target == "openvino":
        return data, constants.read_entries(folder / "openvino_model.xml")[name].offset
    return data, external_data.read_entries(folder / "model.onnx", data.name)[name].offset


def as_torch(weights: dict[str, Weight]) -> dict[str, torch.Tensor]:
    """De-quantised, float32."""
    return {
        name: torch.from_numpy(weight.dequantize() if isinstance(weight, QTensor) else weight.float32())
        for name, weight in weights.items()
    }
