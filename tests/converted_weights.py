"""Reads the weights of a converted folder from its files with the help of its manifest."""

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
    """All weights in the manifest of `folder`, read from the engine's files."""
    manifest = read_manifest(folder)
    data = folder / DATA_FILES[manifest.target]
    weights_by_name: dict[str, Weight] = {}
    with data.open("rb") as source:
        if manifest.target == "openvino":
            entries = constants.read_entries(folder / "openvino_model.xml")
            for record in manifest.weights:
                stored = compressed.Stored(record.bits, record.symmetric) if record.group_size else None
                weights_by_name[record.name] = compressed.read_weight(source, entries, record.name, stored)
        else:
            initializers = external_data.read_entries(folder / "model.onnx", data.name)
            for record in manifest.weights:
                layout = matmul_nbits.layout_of(blank(record)) if record.group_size else None
                weights_by_name[record.name] = matmul_nbits.read_weight(source, initializers, record.name, layout)
    return weights_by_name


def blank(record: WeightRecord) -> QTensor:
    """A weight of zeros with the record's shape and quantisation scheme."""
    rows, columns = record.shape
    groups = columns // record.group_size
    zero_points = None if record.symmetric else np.zeros((rows, groups), np.uint8)
    return QTensor(np.zeros((rows, columns), np.uint8), np.ones((rows, groups), np.float16), zero_points, record.bits)


def weight_offset(folder: Path, name: str) -> tuple[Path, int]:
    """The data file of `folder`, and the offset of the codes of weight `name` in it."""
    engine = read_manifest(folder).target
    data = folder / DATA_FILES[engine]
    if engine == "openvino":
        return data, constants.read_entries(folder / "openvino_model.xml")[name].offset
    return data, external_data.read_entries(folder / "model.onnx", data.name)[name].offset


def as_torch(weights: dict[str, Weight]) -> dict[str, torch.Tensor]:
    """The weights de-quantised to float32."""
    return {
        name: torch.from_numpy(weight.dequantize() if isinstance(weight, QTensor) else weight.float32())
        for name, weight in weights.items()
    }
