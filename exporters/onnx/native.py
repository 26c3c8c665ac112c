"""Weights for the native operator as initializers of an ONNX model: `QuantizedLinear` of the domain `ovround`."""

from __future__ import annotations

import onnx

from ovround.exporters.native_parts import Native, parts_of
from ovround.exporters.onnx.external_data import DataFile

_UINT8 = int(onnx.TensorProto.UINT8)


def write_native(file: DataFile, name: str, weight: Native) -> None:
    """Append a weight's parts."""
    for part, data in parts_of(name, weight):
        file.write(part, _UINT8, data.shape, data)
