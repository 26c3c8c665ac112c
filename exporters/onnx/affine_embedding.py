"""The look-up of an affine embedding in nodes of the graph; `ovround.exporters.affine_rows` has its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from ovround.exporters.affine_rows import FACTOR, MINIMUM, ROWS, SCALE

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps

_FLOAT = int(onnx.TensorProto.FLOAT)


def affine_embedding(ops: OnnxOps, name: str, ids: str, zero_point: int) -> str:
    """Rows `[B, T, K]` float32 of the embedding `name` for ids `[B, T]`."""
    entries = ops.file.entries

    def gathered(part: str) -> str:
        return ops.node("Cast", [ops.node("Gather", [part, ids], f"{part}/gathered")], f"{part}/float", to=_FLOAT)

    def reshaped(value: str, *sizes: int) -> str:
        shape = ops.i64(f"rows/{'x'.join(map(str, sizes))}", [0, 0, *sizes])
        return ops.node("Reshape", [value, shape], f"{value}/{len(sizes)}d")

    def values(part: str) -> str:  # [B, T, G, 1]
        blocks = entries[part].shape[1]
        numbers = reshaped(gathered(part), blocks, 1)
        if part + FACTOR not in entries:
            return numbers
        groups = entries[part + FACTOR].shape[1]
        factors = reshaped(gathered(part + FACTOR), blocks, groups // blocks)
        return reshaped(ops.node("Mul", [factors, numbers], f"{part}/products"), groups, 1)

    columns = entries[name + ROWS].shape[1]
    scale = name + SCALE + FACTOR if name + SCALE + FACTOR in entries else name + SCALE
    groups = entries[scale].shape[1]
    value = reshaped(gathered(name + ROWS), groups, columns // groups)
    if zero_point:
        value = ops.node("Sub", [value, ops.f32(f"zero_point/{zero_point}", float(zero_point))], f"{name}/centred")
    value = ops.node("Mul", [value, values(name + SCALE)], f"{name}/scaled")
    if name + MINIMUM in entries:
        value = ops.node("Sub", [value, values(name + MINIMUM)], f"{name}/shifted")
    return reshaped(value, columns)
