"""How a `QTensor` lies in the initializers of com.microsoft MatMulNBits and GatherBlockQuantized.

    codes        uint8 [N, blocks, block_size * bits / 8]   a little-endian bit stream in each block (`ovround.tensors.packing`)
    /scales      float32 [N, blocks]                        exactly the float16 values
    /zero_points uint8 [N, ceil(blocks * bits / 8)]         packed like the codes; absent means 2^(bits-1)
    /order       int32 [K]                                  the input of each column, for a Gather in front; mostly absent

    blocks = ceil(K / block_size), and the last block is padded with its zero point, so that padding is worth 0.

An embedding table is the same bytes with each row's blocks joined, `[V, blocks * block_size * bits / 8]`, so one stored
table serves both operators. What the CPU kernels cannot run is re-expressed without changing a value:

| tuned | stored | because |
|---|---|---|
| 3 bits | 4 bits | no operator takes 3 |
| 2 bits, groups of 16 | 4 bits | ONNX Runtime 1.31 has no such kernel: it would decode the whole weight on every call |
| 2 bits, groups of 256 | blocks of 128 | the same |
| longer groups, whole rows | blocks of 128, or fewer where 128 do not divide the group | 256 is the largest block |
| whole rows that 16 does not divide | blocks of 128, the last one padded | |

Widened codes keep their zero points; symmetric ones are shifted onto the wider width's implied zero point. A group that
becomes several blocks has its scale and zero point repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from ovround.exporters.onnx.external_data import FLOAT_TYPES, DataFile
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.packing import pack_rows
from ovround.tensors.qtensor import QTensor
from ovround.tensors.reexpression import symmetric_shift

SCALES, ZERO_POINTS, ORDER = "/scales", "/zero_points", "/order"
BLOCK_SIZES = {2: (32, 64, 128), 4: (16, 32, 64, 128, 256), 8: (16, 32, 64, 128, 256)}
_SPLIT_SIZES = (128, 64, 32, 16)  # for groups that are no block size: smaller blocks give activations finer scales too
_UINT8, _INT32, _FLOAT = int(onnx.TensorProto.UINT8), int(onnx.TensorProto.INT32), int(onnx.TensorProto.FLOAT)


@dataclass(frozen=True, slots=True)
class Layout:
    """A weight `[N, K]` as tuned (`bits`, `group_size`, `symmetric`) and as stored (`stored_bits`, `block_size`)."""

    shape: tuple[int, int]
    bits: int
    group_size: int
    symmetric: bool
    stored_bits: int
    block_size: int

    @property
    def blocks(self) -> int:
        """Blocks a row, the padded one included."""
        return -(-self.shape[1] // self.block_size)

    @property
    def blob_bytes(self) -> int:
        """Bytes of one block's codes."""
        return self.block_size * self.stored_bits // 8

    @property
    def matmul_shape(self) -> tuple[int, int, int]:
        return self.shape[0], self.blocks, self.blob_bytes

    @property
    def table_shape(self) -> tuple[int, int]:
        return self.shape[0], self.blocks * self.blob_bytes

    @property
    def shift(self) -> int:
        """What is added to a code when it is stored."""
        return symmetric_shift(self.bits, self.stored_bits) if self.symmetric else 0


def layout_of(tensor: QTensor) -> Layout:
    """The layout in which ONNX Runtime runs `tensor` fast; raises ValueError for groups that no block size divides."""
    return layout_for(tensor.shape, tensor.bits, tensor.group_size, symmetric=tensor.symmetric)


def layout_for(shape: tuple[int, int], bits: int, group: int, *, symmetric: bool) -> Layout:
    """`layout_of` a weight `[N, K]` of `bits` bits in groups of `group` inputs."""
    columns = shape[1]
    stored_bits = 4 if bits == 3 or (bits == 2 and group == 16) else bits
    allowed = BLOCK_SIZES[stored_bits]
    if group in allowed:
        block = group
    else:
        block = next((size for size in _SPLIT_SIZES if size in allowed and group % size == 0), 0)
        if not block and group == columns:
            block = 128
    if not block:
        raise ValueError(f"groups of {group} in rows of {columns}: no block size of {allowed} divides them")
    return Layout(shape, bits, group, symmetric, stored_bits, block)


def write_weight(file: DataFile, name: str, weight: QTensor | FloatTensor, *, table: bool) -> Layout | None:
    """Append a weight's initializers: `name`, for a QTensor also `name/scales` and `name/zero_points` if it has any.

    `table` joins each row's blocks, as a Gather reads them. Returns the layout of a QTensor.
    """
    if isinstance(weight, FloatTensor):
        file.write(name, FLOAT_TYPES[weight.dtype], weight.shape, weight.data)
        return None
    layout = layout_of(weight)
    (rows, columns), blocks = layout.shape, layout.blocks
    repeats = blocks // weight.scales.shape[1]
    padding = np.repeat(weight.zeros()[:, -1:], blocks * layout.block_size - columns, axis=1)
    codes = np.concatenate([weight.codes, padding], axis=1) + np.uint8(layout.shift)
    shape = layout.table_shape if table else layout.matmul_shape
    file.write(name, _UINT8, shape, pack_rows(codes, layout.stored_bits))
    scales = np.repeat(weight.scales.astype(np.float32), repeats, axis=1)
    file.write(name + SCALES, _FLOAT, (rows, blocks), scales)
    if weight.zero_points is not None:
        zero_points = pack_rows(np.repeat(weight.zero_points, repeats, axis=1), layout.stored_bits)
        file.write(name + ZERO_POINTS, _UINT8, zero_points.shape, zero_points)
    if weight.order is not None:
        file.write(name + ORDER, _INT32, weight.order.shape, weight.order)
    return layout
