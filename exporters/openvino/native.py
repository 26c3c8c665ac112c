"""Weights for the native operator as constants of an OpenVINO model, and the operator's node."""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.affine_rows import FACTOR, MINIMUM, ROWS, SCALE, rows_of
from ovround.exporters.native_parts import Native, inputs_of, parts_of
from ovround.exporters.openvino.constants import ConstantFile
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.quantized_linear_node import QuantizedLinear

_TYPES = {"uint8": "u8", "int8": "i8", "float16": "f16"}


def write_native(file: ConstantFile, name: str, weight: Native) -> None:
    """Append a weight's parts."""
    for part, data in parts_of(name, weight):
        file.write(part, "u8", data.shape, data)


def write_rows(file: ConstantFile, name: str, weight: AffineTensor) -> None:
    """Append an embedding's parts for `rows`."""
    for part, data in rows_of(name, weight):
        file.write(part, _TYPES[data.dtype.name], data.shape, data)


def rows(file: ConstantFile, name: str, ids: ov.Node, zero_point: int) -> ov.Node:
    """Rows `[B, T, K]` float32 of the embedding `name` for ids `[B, T]`."""
    axis = file.small("const/axis0", "i64", 0)

    def gathered(part: str) -> ov.Node:
        return opset.convert(opset.gather(file.node(part), ids, axis), "f32")

    def reshaped(value: ov.Node, *sizes: int) -> ov.Node:
        shape = file.small(f"const/rows/{'x'.join(map(str, sizes))}", "i64", [0, 0, *sizes])
        return opset.reshape(value, shape, True)

    def values(part: str) -> ov.Node:  # [B, T, G, 1]
        blocks = file.entries[part].shape[1]
        if part + FACTOR not in file.entries:
            return reshaped(gathered(part), blocks, 1)
        groups = file.entries[part + FACTOR].shape[1]
        factors = reshaped(gathered(part + FACTOR), blocks, groups // blocks)
        return reshaped(opset.multiply(factors, reshaped(gathered(part), blocks, 1)), groups, 1)

    columns = file.entries[name + ROWS].shape[1]
    scale = name + SCALE + FACTOR if name + SCALE + FACTOR in file.entries else name + SCALE
    groups = file.entries[scale].shape[1]
    value = reshaped(gathered(name + ROWS), groups, columns // groups)
    if zero_point:
        value = opset.subtract(value, file.small(f"const/zero_point/{zero_point}", "f32", float(zero_point)))
    value = opset.multiply(value, values(name + SCALE))
    if name + MINIMUM in file.entries:
        value = opset.subtract(value, values(name + MINIMUM))
    return reshaped(value, columns)


def product(file: ConstantFile, name: str, x: ov.Node, shape: tuple[int, int]) -> ov.Node:
    """x `[..., K]` times weight `name` `[N, K]`: the operator's node."""
    weights, parts = inputs_of(file.entries, name)
    return QuantizedLinear(
        [x.output(0), *(file.node(part).output(0) for part in parts)],
        weights=weights,
        outputs=shape[0],
        inputs=shape[1],
    )
