"""`FloatTensor`: a weight that stays in floating point, held in the checkpoint's own type.

numpy has no bfloat16, so those values are kept as their uint16 bit patterns; everything else is an ordinary array.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatType = Literal["float32", "float16", "bfloat16"]
STORAGE: dict[FloatType, type[np.generic]] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


@dataclass(frozen=True, slots=True, eq=False)
class FloatTensor:
    """Values of any shape; `data` is float32, float16, or uint16 bit patterns when `dtype` is bfloat16."""

    data: NDArray[Any]
    dtype: FloatType

    def __post_init__(self) -> None:
        if self.data.dtype != STORAGE[self.dtype]:
            raise ValueError(f"{self.dtype} is kept as {STORAGE[self.dtype].__name__}, not {self.data.dtype}")

    @classmethod
    def of(cls, values: NDArray[np.float32], dtype: FloatType) -> FloatTensor:
        """`values` rounded to `dtype`, to nearest and to even; NaN does not occur in a weight that passed its checks."""
        if dtype != "bfloat16":
            return cls(values.astype(STORAGE[dtype]), dtype)
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return cls((rounded >> np.uint32(16)).astype(np.uint16), dtype)

    @classmethod
    def from_bytes(cls, data: NDArray[np.uint8], dtype: FloatType, shape: tuple[int, ...]) -> FloatTensor:
        """The tensor `shape` whose little-endian values are `data`."""
        return cls(data.view(STORAGE[dtype]).reshape(shape), dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def size_bytes(self) -> int:
        return self.data.nbytes

    def float32(self) -> NDArray[np.float32]:
        """The values as float32, exactly."""
        if self.dtype == "bfloat16":
            return (self.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return self.data.astype(np.float32)

    def digest(self) -> str:
        """sha256 of type, shape and bytes."""
        digest = hashlib.sha256(f"{self.dtype} {self.shape}".encode())
        digest.update(np.ascontiguousarray(self.data).data)
        return digest.hexdigest()
