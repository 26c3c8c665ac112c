"""One safetensors file: its header, checked by the safetensors library, and tensors read by position.

Tensors are read with ordinary reads, not through a memory map: pages of a map that was walked through once would count as
this process's memory until the kernel takes them back, and a model is larger than we want to be.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ovround.checkpoint.files.element_types import (
    ARRAY_TYPES,
    TensorInfo,
    as_float,
    check_float,
    check_readable,
    is_finite,
)
from ovround.checkpoint.files.pointer import again
from ovround.errors import HeaderError, TensorError
from ovround.tensors.float_tensor import FloatTensor

_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A file and its tensors, in the order in which they lie."""

    path: Path
    data_start: int
    tensors: dict[str, TensorInfo]

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        """One floating-point tensor, or its part at `index` of the first axis; raises TensorError for any other type."""
        info = self.tensors[name]
        check_float(name, self.path.name, info.dtype)
        return as_float(self._part(info, ARRAY_TYPES[info.dtype], index), info.dtype)

    def read_columns(self, name: str, columns: slice) -> FloatTensor:
        """These columns of a floating-point matrix, read some rows at a time; raises TensorError for any other type."""
        info = self.tensors[name]
        check_float(name, self.path.name, info.dtype)
        storage = np.dtype(ARRAY_TYPES[info.dtype])
        rows, width = info.shape
        data = np.empty((rows, len(range(width)[columns])), storage)
        step = max(1, _CHUNK_BYTES // (width * storage.itemsize))
        with self.path.open("rb") as file:
            file.seek(info.offset)
            for start in range(0, rows, step):
                count = min(step, rows - start)
                part = np.fromfile(file, storage, count * width).reshape(count, width)
                data[start : start + count] = part[:, columns]
        return as_float(data, info.dtype)

    def read_array(self, name: str, index: int | None = None) -> NDArray[Any]:
        """One tensor of any type of `ARRAY_TYPES`, as it is stored, or its part at `index` of the first axis.

        Raises TensorError for another type.
        """
        info = self.tensors[name]
        check_readable(name, self.path.name, info.dtype)
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
                    if not is_finite(chunk, info.dtype):
                        raise TensorError(
                            f"`{name}` in `{self.path}` holds NaN or infinity",
                            hint="the checkpoint is damaged: get it again",
                        )
        return digest.hexdigest()

    def renamed(self, names: Mapping[str, str]) -> SafetensorsFile:
        """The same file with tensor `names[x]` for each tensor x."""
        return replace(self, tensors={names[name]: info for name, info in self.tensors.items()})


def open_safetensors(path: Path) -> SafetensorsFile:
    """Open a file whose header the library has accepted; raises HeaderError for any other."""
    try:
        with safe_open(path, framework="numpy"):
            pass  # the library checks lengths, types, overlaps, holes and duplicate keys
    except FileNotFoundError:
        raise HeaderError(f"`{path}` is missing", hint="download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise HeaderError(
            f"`{path}` is no valid safetensors file: {error!s:.300}",
            hint=again(path, "the file is damaged: download it again"),
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
