"""How a `QTensor` or `FloatTensor` lies in an OpenVINO model: element types, parts, and the sub-graph that decodes them.

    weight [N, G, group] u4|i4|u8|i8|u2 -> Convert f16 -> (Subtract zero_point) -> Multiply scale f16 [N, G, 1]
      -> Reshape [N, K] -> Convert f32

This is the chain that NNCF writes and that the plugins fuse into the MatMul or Gather behind it. Where the columns stand in
another order than the inputs, `order` i32 [K] is gathered from the input in front of the MatMul.

| bits | symmetric | asymmetric |
|---|---|---|
| 8 | i8, no zero point | u8, zero point u8 |
| 4 | i4, no zero point | u4, zero point u4 |
| 3 | as 4: OpenVINO expands u3 to float32 when it compiles | as 4 |
| 2 | u2, zero point i8 2 | u2, zero point i8: an unsigned or absent one makes the CPU plugin fail under bf16 |

A table for Gather (an embedding) has no 2-bit form in the CPU plugin, so it is widened to 4 bits too; the integers stay. So
are experts, which the plugin would decode whole on every call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset

from ovround.errors import VerifyError
from ovround.exporters.native_parts import read_native
from ovround.exporters.openvino.constants import ConstantFile, Entry
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor, FloatType
from ovround.tensors.packing import pack_rows, signed_nibbles, unpack_rows, unsigned_nibbles
from ovround.tensors.qtensor import QTensor

SCALE, ZERO_POINT, ORDER = "/scale", "/zero_point", "/order"
_FLOAT_TYPES: dict[FloatType, str] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a weight's constants need beside their bytes to be read back: bits of the codes and symmetry.

    `native`: the shape of one that is laid out for the native operator; `bits` is 0 where it is made of codebooks.
    """

    bits: int
    symmetric: bool
    native: tuple[int, int] | None = None


def element_type(bits: int, symmetric: bool, *, table: bool) -> str:
    """The IR element type of codes of `bits` bits; `table` when a Gather reads them, or experts do."""
    if bits == 8:
        return "i8" if symmetric else "u8"
    if bits == 2 and not table:
        return "u2"
    return "i4" if symmetric else "u4"


def write_weight(file: ConstantFile, name: str, tensor: QTensor | FloatTensor, *, table: bool) -> None:
    """Append a weight's constants: `name`, of a QTensor also `name/scale` and what it needs of `name/zero_point`, `name/order`."""
    if isinstance(tensor, FloatTensor):
        file.write(name, _FLOAT_TYPES[tensor.dtype], tensor.shape, tensor.data)
        return
    (rows, columns), group = tensor.shape, tensor.group_size
    groups = columns // group
    kind = element_type(tensor.bits, tensor.symmetric, table=table)
    file.write(name, kind, (rows, groups, group), _encode(tensor, kind))
    file.write(name + SCALE, "f16", (rows, groups, 1), tensor.scales)
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


def _encode(tensor: QTensor, kind: str) -> NDArray[np.uint8]:
    """Codes as the bytes of `kind`; the sub-byte stream runs over the whole tensor, so rows are joined first."""
    if kind == "i8":
        return tensor.codes - np.uint8(1 << (tensor.bits - 1))
    if kind == "u8":
        return tensor.codes
    codes = signed_nibbles(tensor.codes, tensor.bits) if kind == "i4" else tensor.codes
    return pack_rows(codes.reshape(1, -1), 2 if kind == "u2" else 4)


def decode_node(file: ConstantFile, name: str) -> ov.Node:
    """The sub-graph that yields weight `name` as float32 in its own shape (`[N, K]`, or `[E, N, K]`, for a quantised one)."""
    entry = file.entries[name]
    weight = file.node(name)
    if name + SCALE not in file.entries:
        return weight if entry.element_type == "f32" else opset.convert(weight, "f32")
    value = opset.convert(weight, "f16")
    if name + ZERO_POINT in file.entries:
        value = opset.subtract(value, opset.convert(file.node(name + ZERO_POINT), "f16"))
    value = opset.multiply(value, file.node(name + SCALE))
    *rows, groups, group = entry.shape
    shape = file.small(f"{name}/shape", "i64", [*rows, groups * group])
    return opset.convert(opset.reshape(value, shape, False), "f32")


def read_weight(
    source: BinaryIO, entries: Mapping[str, Entry], name: str, stored: Stored | None
) -> QTensor | FloatTensor | CodebookTensor:
    """Read weight `name` back from a written model; `stored` is None for a float one.

    Raises VerifyError when the constants are missing or cannot be such a weight.
    """
    try:
        entry = entries[name]
        data = _read(source, entry)
        if stored is None:
            dtype = next(dtype for dtype, kind in _FLOAT_TYPES.items() if kind == entry.element_type)
            storage = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[dtype]
            return FloatTensor(data.view(storage).reshape(entry.shape), dtype)
        if stored.native is not None:
            return read_native(
                lambda part: _read(source, entries[part]).reshape(entries[part].shape),
                name,
                stored.native,
                bits=stored.bits,
                symmetric=stored.symmetric,
            )
        rows, groups, group = entry.shape
        codes = _decode(data, entry, stored.bits).reshape(rows, groups * group)
        scales = _read(source, entries[name + SCALE]).view(np.float16).reshape(rows, groups)
        return QTensor(
            codes,
            scales,
            _read_zero_points(source, entries.get(name + ZERO_POINT), stored, (rows, groups)),
            stored.bits,
            _read(source, entries[name + ORDER]).view(np.int32) if name + ORDER in entries else None,
        )
    except (KeyError, ValueError, StopIteration) as error:
        raise VerifyError(f"weight `{name}` cannot be read back: {error!r}") from error


def _read(source: BinaryIO, entry: Entry) -> NDArray[np.uint8]:
    source.seek(entry.offset)
    data = np.frombuffer(source.read(entry.size_bytes), np.uint8)
    if data.nbytes != entry.size_bytes:
        raise ValueError(f"{data.nbytes} of {entry.size_bytes} bytes at {entry.offset}")
    return data


def _decode(data: NDArray[np.uint8], entry: Entry, bits: int) -> NDArray[np.uint8]:
    kind, count = entry.element_type, int(np.prod(entry.shape))
    if kind == "i8":
        return data + np.uint8(1 << (bits - 1))
    if kind == "u8":
        return data
    codes = unpack_rows(data, 2 if kind == "u2" else 4, count)
    return unsigned_nibbles(codes, bits) if kind == "i4" else codes


def _read_zero_points(
    source: BinaryIO, entry: Entry | None, stored: Stored, shape: tuple[int, int]
) -> NDArray[np.uint8] | None:
    if entry is None:
        if not stored.symmetric:
            raise ValueError("asymmetric, yet without zero points")
        return None
    data = _read(source, entry)
    if stored.symmetric:
        if data.tolist() != [1 << (stored.bits - 1)]:
            raise ValueError(f"symmetric, yet with zero points {data[:4]}")
        return None
    return unpack_rows(data, 4 if entry.element_type == "u4" else 8, shape[0] * shape[1]).reshape(shape)
