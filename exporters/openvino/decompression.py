"""The sub-graph that de-quantises a weight: the chain of nodes that NNCF writes and the plugins fuse."""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.compressed import SCALE, ZERO_POINT
from ovround.exporters.openvino.constants import ConstantFile


def decode_node(file: ConstantFile, name: str) -> ov.Node:
    """The sub-graph that yields weight `name` as float32 in its own shape (`[N, K]`, or `[E, N, K]`, for a quantised one)."""
    entry = file.entries[name]
    weight = file.node(name)
    if name + SCALE not in file.entries:
        return weight if entry.element_type == "f32" else opset.convert(weight, "f32")
    kind = file.entries[name + SCALE].element_type
    value = opset.convert(weight, kind)
    if name + ZERO_POINT in file.entries:
        value = opset.subtract(value, opset.convert(file.node(name + ZERO_POINT), kind))
    value = opset.multiply(value, file.node(name + SCALE))
    *rows, groups, group = entry.shape
    shape = file.small(f"{name}/shape", "i64", [*rows, groups * group])
    value = opset.reshape(value, shape, False)
    return value if kind == "f32" else opset.convert(value, "f32")
