"""The header of a GGUF file (version 2 and 3): metadata and the places of its tensors, every length checked before it is used.

    "GGUF"  uint32 version  uint64 tensors  uint64 entries
    entries   string key, uint32 type, value;  an array is uint32 type, uint64 count, values
    tensors   string name, uint32 axes, uint64 size of each axis (the shortest stride first), uint32 type, uint64 offset
    data      from the next multiple of general.alignment (32), offsets counted from there

The package `gguf` has a reader too. It makes several views of numpy for each token: 42 s and 750 MB for the header of Gemma 3
270M, 1 s here. It also trusts lengths and counts.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovround.checkpoint.files.pointer import again
from ovround.checkpoint.gguf.types import block_of, type_name
from ovround.errors import CheckpointError, HeaderError
from ovround.limits import LIMITS

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_KEY_BYTES, _NAME_BYTES, _MOST_AXES = 65_535, 1024, 4
_MOST_ENTRIES, _MOST_TENSORS = 1 << 16, 1 << 20
_SMALLEST_ENTRY, _SMALLEST_TENSOR = 8 + 1 + 4 + 1, 8 + 1 + 4 + 8 + 4 + 8  # bytes
_ALIGNMENT, _LARGEST_ALIGNMENT = 32, 1 << 20

Metadata = dict[str, Any]
"""Values as Python has them: int, float, bool, str, and lists of these. A float32 is the shortest decimal that gives it."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's type by its name, `shape` with the longest stride first (`[N, K]`), and where its bytes lie in `path`."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says before its weights."""

    metadata: Metadata
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GgufHeader:
    """The header of a file; raises HeaderError with what is wrong, for any content, without allocating what a file claims."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < len(_MAGIC) + 4 + 16:
                raise HeaderError(f"`{path}` is no valid GGUF file: it has {size} bytes", hint=again(path))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
                return parse_header(path, data)
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}", hint="is it a GGUF file?") from error


def parse_header(path: Path, data: memoryview) -> GgufHeader:
    """The header of a file with these contents; raises HeaderError as `read_header` does."""
    return _Reader(path, data).header()


class _Reader:
    """A position in a file's contents; every read is checked against their end."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self._path, self._data, self._size, self._at = path, data, len(data), 0

    def header(self) -> GgufHeader:
        if bytes(self._data[:4]) != _MAGIC:
            raise self._error(f"it begins with {bytes(self._data[:4])!r}, not with {_MAGIC!r}")
        self._at = 4
        version = self._number("<I")
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = "is big-endian" if swapped in _VERSIONS else f"has version {version}; 2 and 3 can be read"
            raise HeaderError(f"`{self._path}` {what}", hint="a current file for this machine is needed")
        tensors = self._count("tensors", self._number("<Q"), _MOST_TENSORS, _SMALLEST_TENSOR)
        entries = self._count("metadata entries", self._number("<Q"), _MOST_ENTRIES, _SMALLEST_ENTRY)
        metadata: Metadata = {}
        for _ in range(entries):
            key = self._text("a key", _KEY_BYTES)
            if key in metadata:
                raise self._error(f"metadata `{key:.80}` is there twice")
            metadata[key] = self._value(key, self._number("<I"))
        raw = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment not in {1 << power for power in range(21)}:
            raise self._error(
                f"general.alignment is {alignment!r:.40}; a power of two up to {_LARGEST_ALIGNMENT} is needed"
            )
        start = -(-self._at // alignment) * alignment
        infos: dict[str, TensorInfo] = {}
        for name, axes, kind, offset in raw:
            if name in infos:
                raise self._error(f"tensor `{name:.80}` is there twice")
            infos[name] = self._info(name, axes, kind, start + offset)
        return GgufHeader(metadata, infos)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text("a tensor's name", _NAME_BYTES)
        count = self._number("<I")
        if not 1 <= count <= _MOST_AXES:
            raise self._error(f"tensor `{name:.80}` has {count} axes; 1 to {_MOST_AXES} are allowed")
        axes = tuple(self._number("<Q") for _ in range(count))
        return name, axes, self._number("<I"), self._number("<Q")

    def _info(self, name: str, axes: tuple[int, ...], number: int, offset: int) -> TensorInfo:
        kind = type_name(number)
        if kind is None:
            raise HeaderError(
                f"tensor `{name:.80}` of `{self._path}` is of type {number}, which the installed package gguf does not know",
                hint="pip install --upgrade gguf, or a file of a current type",
            )
        block, size = block_of(kind)
        if min(axes) < 1 or axes[0] % block:
            raise self._error(
                f"tensor `{name:.80}` has axes {list(axes)!r:.90}; {kind} needs multiples of {block} first"
            )
        size_bytes = math.prod(axes) // block * size
        if offset + size_bytes > self._size:
            raise self._error(
                f"tensor `{name:.80}` of {size_bytes} bytes from {offset} goes beyond its {self._size} bytes"
            )
        return TensorInfo(self._path, kind, axes[::-1], offset, size_bytes)

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._text(f"`{key:.80}`", self._size)
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise self._error(f"metadata `{key:.80}` is of type {kind}")
        number = self._number(_SCALARS[kind])
        if kind == _BOOL:
            return bool(number)
        return shortest(number) if _SCALARS[kind] == "<f" else number

    def _array(self, key: str) -> list[Any]:
        kind, count = self._number("<I"), self._number("<Q")
        what = f"elements of `{key:.80}`"
        if kind == _STRING:
            count = self._count(what, count, LIMITS.gguf_array, 8)
            return [self._text(what, self._size) for _ in range(count)]
        if kind not in _SCALARS:
            raise self._error(f"`{key:.80}` is an array of type {kind}; numbers and texts are allowed")
        form = np.dtype(_SCALARS[kind])
        count = self._count(what, count, LIMITS.gguf_array, form.itemsize)
        values = np.frombuffer(self._take(what, count * form.itemsize), form)
        return [bool(value) for value in values] if kind == _BOOL else values.tolist()

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack(form, self._take("a number", struct.calcsize(form)))
        return value

    def _text(self, what: str, most: int) -> str:
        length = self._number("<Q")
        if length > most:
            raise self._error(f"{what} has {length} bytes; {most} are allowed")
        try:
            return self._take(what, length).decode()
        except UnicodeDecodeError as error:
            raise self._error(f"{what} is no UTF-8 text: {error!s:.100}") from None

    def _count(self, what: str, count: int, most: int, least_bytes: int) -> int:
        """`count` where so many fit into the rest of the file."""
        if count > most or count * least_bytes > self._size - self._at:
            raise self._error(f"it claims {count} {what}; at most {most} are allowed, and as many as its bytes hold")
        return count

    def _take(self, what: str, size: int) -> bytes:
        end = self._at + size
        if end > self._size:
            raise self._error(f"it ends inside {what}")
        if end > LIMITS.gguf_header_bytes:
            raise self._error(f"its header is longer than {LIMITS.gguf_header_bytes} bytes")
        taken = bytes(self._data[self._at : end])
        self._at = end
        return taken

    def _error(self, what: str) -> HeaderError:
        return HeaderError(f"`{self._path}` is no valid GGUF file: {what}", hint=again(self._path))


def shortest(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 1e-06 where the file has 9.999999974752427e-07."""
    return float(str(np.float32(value)))
