"""The element types of stored tensors, under safetensors' names: how numpy holds them, and which are numbers at once.

| type | held as |
|---|---|
| F32, F16, integers | themselves |
| BF16, F8_E4M3, F8_E5M2, F8_E8M0 | their bit patterns, uint16 or uint8 |
| F64 | themselves; read as float32, to nearest, as transformers does |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.errors import TensorError
from ovround.tensors.float_tensor import STORAGE, FloatTensor, FloatType

FLOAT_TYPES: dict[str, FloatType] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DOUBLE = "F64"
UNEXPLAINED = "config.json says nothing of a quantisation that would explain this: start from the original checkpoint"
ARRAY_TYPES: dict[str, type[np.generic]] = {
    **{name: STORAGE[dtype] for name, dtype in FLOAT_TYPES.items()},
    DOUBLE: np.float64, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8,
    "I8": np.int8, "U8": np.uint8, "I16": np.int16, "I32": np.int32, "U32": np.uint32, "I64": np.int64,
}  # fmt: skip
# These bits all set mean infinity or NaN, or NaN alone where the type has no infinity. Of F64: what float32 cannot hold.
_UNREAL: dict[str, np.unsignedinteger[Any]] = {
    "F32": np.uint32(0x7F800000),
    "F16": np.uint16(0x7C00),
    "BF16": np.uint16(0x7F80),
    DOUBLE: np.uint64(0x7FF0000000000000),
    "F8_E4M3": np.uint8(0x7F),
    "F8_E5M2": np.uint8(0x7C),
    "F8_E8M0": np.uint8(0xFF),
}
_LEAST_UNREAL = {DOUBLE: np.uint64((1023 + 128) << 52)}  # 2^128


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `offset` is from the start of the file, `dtype` safetensors' own name (F32, BF16, I32 ...)."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    def as_read(self) -> TensorInfo:
        """As `as_float` gives it: doubles become float32."""
        return replace(self, dtype="F32", size_bytes=self.size_bytes // 2) if self.dtype == DOUBLE else self


def check_readable(name: str, file: str, dtype: str) -> None:
    """Raise TensorError for a type that `ARRAY_TYPES` lacks."""
    if dtype not in ARRAY_TYPES:
        raise TensorError(f"`{name}` in `{file}` is {dtype}; {', '.join(ARRAY_TYPES)} can be read")


def check_float(name: str, file: str, dtype: str) -> None:
    """Raise TensorError for a type that is no floating-point number as it lies."""
    if dtype not in FLOAT_TYPES and dtype != DOUBLE:
        raise TensorError(
            f"`{name}` in `{file}` is {dtype}; F32, F16, BF16 or F64 is needed",
            hint=UNEXPLAINED,
        )


def as_float(data: NDArray[Any], dtype: str) -> FloatTensor:
    """Stored values of a type of `FLOAT_TYPES`, or doubles, as a tensor."""
    if dtype == DOUBLE:
        return FloatTensor(data.astype(np.float32), "float32")
    return FloatTensor(data, FLOAT_TYPES[dtype])


def is_finite(data: NDArray[Any] | bytes, dtype: str) -> bool:
    """Whether every value of stored `data` is a number; true for integers."""
    if dtype not in _UNREAL:
        return True
    mask = _UNREAL[dtype]
    raw = np.frombuffer(data, mask.dtype) if isinstance(data, bytes) else data.reshape(-1).view(mask.dtype)
    bits = raw & mask
    return not bits.size or bool(bits.max() < _LEAST_UNREAL.get(dtype, mask))
