"""A weight as a matrix of numbers (`Linear.decoded`): nodes over constants, which ONNX Runtime folds when it loads the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from ovround.exporters.onnx.matmul_nbits import ORDER, SCALES, Layout

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps

_INT64, _FLOAT = int(onnx.TensorProto.INT64), int(onnx.TensorProto.FLOAT)


def weight_matrix(ops: OnnxOps, at: str) -> str:
    """`{at}.weight` decoded, float32 `[N, K]`."""
    layout = ops.layouts.get(f"{at}.weight")
    return ops.float_weight(f"{at}.weight") if layout is None else _decoded(ops, at, layout)


def _decoded(ops: OnnxOps, at: str, layout: Layout) -> str:
    """(codes - zero points) * scales, in standard operators: ONNX Runtime folds none of its own that decode."""
    name, (rows, columns), blocks = f"{at}.weight", layout.shape, layout.blocks
    if (rows, blocks, layout.blob_bytes) != ops.file.entries[name].shape:
        raise ValueError(f"{name} is a table")
    codes = _unpacked(ops, name, layout.stored_bits, [rows, blocks, layout.block_size], f"{at}/codes")
    middle = ops.f32(f"middle/{layout.stored_bits}", float(1 << (layout.stored_bits - 1)))
    for zero_points in ops.zero_points(name):
        a_byte = 8 // layout.stored_bits
        padded = _unpacked(
            ops, zero_points, layout.stored_bits, [rows, -(-blocks // a_byte) * a_byte, 1], f"{at}/zeros"
        )
        end = ops.i64(f"blocks/{blocks}", [blocks])
        middle = ops.node("Slice", [padded, ops.i64("start", [0]), end, ops.i64("axis1", [1])], f"{at}/zeros/blocks")
    scales = ops.node("Unsqueeze", [name + SCALES, ops.i64("axis2", [2])], f"{at}/scales")
    decoded = ops.node("Mul", [ops.node("Sub", [codes, middle], f"{at}/centred"), scales], f"{at}/decoded_blocks")
    whole = ops.i64(f"whole/{rows}", [rows, -1])
    decoded = ops.node("Reshape", [decoded, whole], f"{at}/decoded")
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


def _unpacked(ops: OnnxOps, packed: str, bits: int, shape: list[int], at: str) -> str:
    """The numbers of `bits` bits in the bytes `packed`, the lowest first, as float32 in `shape`."""
    if bits < 8:
        mask, last = ops.u8(f"mask/{bits}", (1 << bits) - 1), ops.i64("last_axis", [-1])
        parts = []
        for start in range(0, 8, bits):
            shifted = ops.node(
                "BitShift", [packed, ops.u8(f"shift/{start}", start)], f"{at}/from{start}", direction="RIGHT"
            )
            part = ops.node("BitwiseAnd", [shifted, mask], f"{at}/bits{start}")
            parts.append(ops.node("Unsqueeze", [part, last], f"{at}/part{start}"))
        packed = ops.node("Concat", parts, f"{at}/parts", axis=-1)
    numbers = ops.node("Cast", [packed], f"{at}/numbers", to=_FLOAT)
    return ops.node("Reshape", [numbers, ops.i64(f"shape/{shape}", shape)], at)
