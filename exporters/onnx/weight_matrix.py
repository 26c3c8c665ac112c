"""A weight as a matrix of numbers, where it is no product with rows: nodes over constants, which ONNX Runtime folds on loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from ovround.exporters.onnx.matmul_nbits import ORDER, SCALES, Layout

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps

_INT64 = int(onnx.TensorProto.INT64)


def weight_matrix(ops: OnnxOps, at: str, inputs: int) -> str:
    """`{at}.weight` decoded, float32 `[N, inputs]`; of our native operator what it makes of the unit matrix."""
    name = f"{at}.weight"
    layout = ops.layouts.get(name)
    if layout is not None:
        return _decoded(ops, at, layout)
    if name in ops.file.entries:
        return ops.float_weight(name)
    unit = ops.f32(f"unit/{inputs}", np.eye(inputs, dtype=np.float32)[None])
    columns = ops.node("Squeeze", [ops.linear(unit, at), ops.i64("axis0", [0])], f"{at}/columns")
    return ops.node("Transpose", [columns], f"{at}/matrix", perm=[1, 0])


def _decoded(ops: OnnxOps, at: str, layout: Layout) -> str:
    name, (rows, columns) = f"{at}.weight", layout.shape
    table = ops.file.view(f"{name}/table", name, layout.table_shape)
    every = ops.i64(f"every/{rows}", list(range(rows)))
    decoded = ops.node(
        "GatherBlockQuantized", [table, every, name + SCALES, *ops.zero_points(name)], f"{at}/decoded", "com.microsoft",
        bits=layout.stored_bits, block_size=layout.block_size, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    if layout.blocks * layout.block_size != columns:
        end = ops.i64(f"{at}/columns", [columns])
        decoded = ops.node("Slice", [decoded, ops.i64("start", [0]), end, ops.i64("axis1", [1])], f"{at}/unpadded")
    if name + ORDER not in ops.file.entries:
        return decoded
    turned = ops.node("Transpose", [decoded], f"{at}/turned", perm=[1, 0])
    order = ops.node("Unsqueeze", [name + ORDER, ops.i64("axis1", [1])], f"{at}/order_column")
    order = ops.node("Cast", [order], f"{at}/order_i64", to=_INT64)
    ordered = ops.node("ScatterND", [turned, order, turned], f"{at}/in_order")
    return ops.node("Transpose", [ordered], f"{at}/matrix", perm=[1, 0])
