"""Weights for the native operator as constants of an OpenVINO model, and the operator's node."""

from __future__ import annotations

import openvino as ov

from ovround.exporters.native_parts import Native, inputs_of, parts_of
from ovround.exporters.openvino.constants import ConstantFile
from ovround.tensors.quantized_linear_node import QuantizedLinear


def write_native(file: ConstantFile, name: str, weight: Native) -> None:
    """Append a weight's parts."""
    for part, data in parts_of(name, weight):
        file.write(part, "u8", data.shape, data)


def product(file: ConstantFile, name: str, x: ov.Node, shape: tuple[int, int]) -> ov.Node:
    """x `[..., K]` times weight `name` `[N, K]`: the operator's node."""
    weights, parts = inputs_of(file.entries, name)
    return QuantizedLinear(
        [x.output(0), *(file.node(part).output(0) for part in parts)],
        weights=weights,
        outputs=shape[0],
        inputs=shape[1],
    )
