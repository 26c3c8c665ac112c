"""One safetensors file: its header, checked by the safetensors library, and tensors read by position.

Tensors are read with ordinary reads, not through a memory map: pages of a map that was walked through once would count as
this process's memory until the kernel takes them back, and a model is larger than we want to be.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ovround.errors import HeaderError, TensorError
from ovround.tensors.float_tensor import STORAGE, FloatTensor, FloatType

_CHUNK_BYTES = 1 << 24
FLOAT_TYPES: dict[str, FloatType] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ARRAY_TYPES: dict[str, type[np.generic]] = {
    **{name: STORAGE[dtype] for name, dtype in FLOAT_TYPES.items()},
    "I8": np.int8, "U8": np.uint8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
}  # fmt: skip
# All exponent bits set means infinity or NaN.
_EXPONENT: dict[str, np.unsignedinteger[Any]] = {
    "F32": np.uint32(0x7F800000),
    "F16": np.uint16(0x7C00),
    "BF16": np.uint16(0x7F80),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `offset` is from the start of the file, `dtype` safetensors' own name (F32, BF16, I32 ...)."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A file and its tensors, in the order in which they lie."""

    path: Path
    data_start: int
    tensors: dict[str, TensorInfo]

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        """One floating-point tensor, or its part at `index` of the first axis; raises TensorError for any other type."""
        info = self.tensors[name]
        if info.dtype not in FLOAT_TYPES:
            raise TensorError(
                f"`{name}` in `{self.path.name}` is {info.dtype}; F32, F16 or BF16 is needed",
                hint="checkpoints that are quantised already cannot be tuned again: start from the original",
            )
        return FloatTensor(self._part(info, ARRAY_TYPES[info.dtype], index), FLOAT_TYPES[info.dtype])

    def read_array(self, name: str, index: int | None = None) -> NDArray[Any]:
        """One tensor of any type of `ARRAY_TYPES`, BF16 as uint16 bit patterns, or its part at `index` of the first axis.

        Raises TensorError for another type.
        """
        info = self.tensors[name]
        if info.dtype not in ARRAY_TYPES:
            raise TensorError(f"`{name}` in `{self.path.name}` is {info.dtype}; {', '.join(ARRAY_TYPES)} can be read")
        return self._part(info, ARRAY_TYPES[info.dtype], index)

    def _part(self, info: TensorInfo, storage: type[np.generic], index: int | None) -> NDArray[Any]:
        shape = info.shape if index is None else info.shape[1:]
        count = math.prod(shape)
        offset = info.offset + (index or 0) * count * np.dtype(storage).itemsize
        data: NDArray[Any] = np.fromfile(self.path, storage, count, offset=offset)
        return data.reshape(shape)

    def scan(self) -> str:
        """The file's sha256, having looked at every value on the way; raises TensorError naming a tensor with NaN or infinity."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            digest.update(file.read(self.data_start))
            for name, info in self.tensors.items():
                left = info.size_bytes
                while left:
                    chunk = file.read(min(left, _CHUNK_BYTES))
                    if not chunk:
                        raise HeaderError(f"`{self.path}` ends inside `{name}`", hint="download the file again")
                    left -= len(chunk)
                    digest.update(chunk)
                    if info.dtype in _EXPONENT and not _finite(chunk, _EXPONENT[info.dtype]):
                        raise TensorError(
                            f"`{name}` in `{self.path}` holds NaN or infinity",
                            hint="the checkpoint is damaged: get it again",
                        )
        return digest.hexdigest()


def _finite(chunk: bytes, exponent: np.unsignedinteger[Any]) -> bool:
    bits = np.frombuffer(chunk, exponent.dtype) & exponent
    return not bits.size or bool(bits.max() != exponent)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Open a file whose header the library has accepted; raises HeaderError for any other."""
    try:
        with safe_open(path, framework="numpy"):
            pass  # the library checks lengths, types, overlaps, holes and duplicate keys
    except FileNotFoundError:
        raise HeaderError(f"`{path}` is missing", hint="download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise HeaderError(
            f"`{path}` is no valid safetensors file: {error!s:.300}", hint="the file is damaged: download it again"
        ) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    start = 8 + length
    tensors = {
        name: TensorInfo(
            entry["dtype"],
            tuple(entry["shape"]),
            start + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].offset))
    return SafetensorsFile(path, start, ordered)
