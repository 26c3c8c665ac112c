"""Weights for the native operator as initializers of an ONNX model: `QuantizedLinear` of the domain `ovround`."""

from __future__ import annotations

import onnx

from ovround.exporters.affine_rows import rows_of
from ovround.exporters.native_parts import Native, parts_of
from ovround.exporters.onnx.external_data import DataFile
from ovround.tensors.affine_tensor import AffineTensor

_TYPES = {
    "uint8": int(onnx.TensorProto.UINT8),
    "int8": int(onnx.TensorProto.INT8),
    "float16": int(onnx.TensorProto.FLOAT16),
}


def write_native(file: DataFile, name: str, weight: Native) -> None:
    """Append a weight's parts."""
    for part, data in parts_of(name, weight):
        file.write(part, _TYPES["uint8"], data.shape, data)


def write_rows(file: DataFile, name: str, weight: AffineTensor) -> None:
    """Append an embedding's parts, which nodes of the graph look up."""
    for part, data in rows_of(name, weight):
        file.write(part, _TYPES[data.dtype.name], data.shape, data)
