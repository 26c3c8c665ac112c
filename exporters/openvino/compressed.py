"""The constants of a weight in an OpenVINO model: what is written for a `QTensor` or a `FloatTensor`.

    weight [N, G, group] u4|i4|u8|i8|u2 -> Convert f16 -> (Subtract zero_point) -> Multiply scale f16 [N, G, 1]
      -> Reshape [N, K] -> Convert f32

Where float16 cannot hold the scales, all of the chain is f32, and fused likewise.
NNCF writes the same chain (`decompression.py`), and the plugins fuse it into the MatMul or Gather that follows. Where the
columns stand in another order than the inputs, `order` i32 [K] is gathered from the input in front of the MatMul.

| bits | symmetric | asymmetric |
|---|---|---|
| 8 | i8, no zero point | u8, zero point u8 |
| 4 | i4, no zero point | u4, zero point u4 |
| 3 | as 4: OpenVINO expands u3 to float32 when it compiles | as 4 |
| 2 | u2, zero point i8 2 | u2, zero point i8: an unsigned or absent one makes the CPU plugin fail under bf16 |

The CPU plugin has no 2-bit Gather, so an embedding of 2 bits is stored in 4; the integers stay the same. Experts of 2 bits are
stored in 4 as well: the plugin would decode all of them on every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ovround.exporters.openvino.storage import FLOAT_TYPES, element_type
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.packing import pack_rows, signed_nibbles, unpack_rows, unsigned_nibbles
from ovround.tensors.qtensor import QTensor

if TYPE_CHECKING:
    from ovround.exporters.openvino.constants import ConstantFile

PART = 1 << 20  # codes encoded at a time, whole bytes of any width
SCALE, ZERO_POINT, ORDER = "/scale", "/zero_point", "/order"


def write_weight(file: ConstantFile, name: str, tensor: QTensor | FloatTensor, *, table: bool) -> None:
    """Append a weight's constants: `name`, and for a QTensor `name/scale` and, where needed, `name/zero_point` and `name/order`.

    `table`: see `storage.is_table`.
    """
    if isinstance(tensor, FloatTensor):
        file.write(name, FLOAT_TYPES[tensor.dtype], tensor.shape, tensor.data)
        return
    (rows, columns), group = tensor.shape, tensor.group_size
    groups = columns // group
    kind = element_type(tensor.bits, tensor.symmetric, table=table)
    file.write_parts(name, kind, (rows, groups, group), _encoded(tensor, kind))
    file.write(name + SCALE, f"f{tensor.scale_bits}", (rows, groups, 1), tensor.scales)
    if kind == "u2":
        if tensor.zero_points is None:
            file.write(name + ZERO_POINT, "i8", (), np.array(2, np.int8))
        else:
            file.write(name + ZERO_POINT, "i8", (rows, groups, 1), tensor.zero_points.view(np.int8))
    elif tensor.zero_points is not None:
        packed = pack_rows(tensor.zero_points.reshape(1, -1), 4 if kind == "u4" else 8)
        file.write(name + ZERO_POINT, kind, (rows, groups, 1), packed)
    if tensor.order is not None:
        file.write(name + ORDER, "i32", (columns,), tensor.order)


def _encoded(tensor: QTensor, kind: str) -> Iterator[NDArray[np.uint8]]:
    """Codes as the bytes of `kind`, some at a time; the sub-byte stream runs over the whole tensor, so rows are joined first."""
    stream = tensor.codes.reshape(-1)
    for start in range(0, len(stream), PART):
        codes = stream[start : start + PART]
        if kind == "i8":
            yield codes - np.uint8(1 << (tensor.bits - 1))
        elif kind == "u8":
            yield codes
        else:
            yield pack_rows(signed_nibbles(codes, tensor.bits) if kind == "i4" else codes, 2 if kind == "u2" else 4)


def decoded(data: NDArray[np.uint8], kind: str, bits: int, count: int) -> NDArray[np.uint8]:
    """The `count` codes whose bytes of `kind` are `data`, which may be changed."""
    if kind == "u8":
        return data
    if kind == "i8":
        data += np.uint8(1 << (bits - 1))
        return data
    codes, width = np.empty(count, np.uint8), 2 if kind == "u2" else 4
    for start in range(0, count, PART):
        part = codes[start : start + PART]
        packed = data[start * width // 8 : (start + PART) * width // 8]
        part[:] = unpack_rows(packed, width, len(part))
        if kind == "i4":
            part[:] = unsigned_nibbles(part, bits)
    return codes
