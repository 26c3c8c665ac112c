"""The weights file of an ONNX model, written as tensors arrive, and the initializers that point into it.

An initializer with external data is a TensorProto that has dimensions but no bytes: `external_data` names the file, the
offset and the length (ONNX specification, "External Data"). So the graph needs only what `Entry` holds, and peak memory
does not grow with the model. Two initializers may name the same bytes: that is how a tied table is stored once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

from ovround.errors import VerifyError
from ovround.exporters.weights_file import read_bytes
from ovround.tensors.float_tensor import FloatType

GRAPH_FILE, WEIGHTS_FILE = "model.onnx", "model.onnx.data"
CACHE_LINE, PAGE = 64, 4096
FUSED_KEY = "ovround.joint"  # metadata: fused weights, {name: {name of a part: its number of rows}}
LARGE_BYTES = 1 << 20  # a tensor of this size or more starts on a page, so that ONNX Runtime can map it
ITEM_BYTES: dict[int, int] = {
    onnx.TensorProto.UINT8: 1,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.INT32: 4,
}
FLOAT_TYPES: dict[FloatType, int] = {
    "float32": int(onnx.TensorProto.FLOAT),
    "float16": int(onnx.TensorProto.FLOAT16),
    "bfloat16": int(onnx.TensorProto.BFLOAT16),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One initializer: its ONNX data type, its dimensions, and where its bytes lie in the weights file."""

    data_type: int
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    def __post_init__(self) -> None:
        if self.data_type not in ITEM_BYTES or self.offset < 0 or min(self.shape, default=0) < 0:
            raise ValueError(f"no weight has data type {self.data_type}, shape {self.shape}, offset {self.offset}")
        if self.size_bytes != math.prod(self.shape) * ITEM_BYTES[self.data_type]:
            raise ValueError(f"{self.size_bytes} bytes for data type {self.data_type}, shape {self.shape}")

    def rows(self, first: int, end: int) -> Entry:
        """The part from row `first` to `end`; raises ValueError when there are not so many rows."""
        if not self.shape or not 0 <= first < end <= self.shape[0]:
            raise ValueError(f"rows {first} to {end} of shape {self.shape}")
        size = self.size_bytes // self.shape[0]
        return Entry(self.data_type, (end - first, *self.shape[1:]), self.offset + first * size, (end - first) * size)

    def read(self, source: BinaryIO) -> NDArray[np.uint8]:
        """The bytes, read from an open weights file; raises ValueError when the file is shorter."""
        return read_bytes(source, self.offset, self.size_bytes)


class DataFile:
    """Appends tensors to the weights file; `entries` says where each initializer lies, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self._file: BinaryIO = path.open("wb")

    def write(self, name: str, data_type: int, shape: Sequence[int], data: NDArray[Any]) -> None:
        """Append the bytes of `data` as the initializer `name`."""
        payload = np.ascontiguousarray(data)
        position = self._file.tell()
        offset = position + -position % (PAGE if payload.nbytes >= LARGE_BYTES else CACHE_LINE)
        entry = Entry(data_type, tuple(shape), offset, payload.nbytes)
        self._add(name, entry)
        self._file.write(b"\0" * (offset - position))
        self._file.write(payload.data)

    def view(self, name: str, of: str, shape: Sequence[int]) -> str:
        """`name`, an initializer over the bytes of `of` in another shape."""
        self._add(name, replace(self.entries[of], shape=tuple(shape)))
        return name

    def _add(self, name: str, entry: Entry) -> None:
        if name in self.entries:
            raise ValueError(f"a second initializer {name}")
        self.entries[name] = entry

    def initializers(self) -> list[onnx.TensorProto]:
        """One TensorProto for each entry, in the order of writing."""
        return [_initializer(name, entry, self.path.name) for name, entry in self.entries.items()]

    def close(self) -> None:
        self._file.close()


def _initializer(name: str, entry: Entry, location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=entry.data_type, dims=entry.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", entry.offset), ("length", entry.size_bytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def read_entries(model_path: Path, location: str) -> dict[str, Entry]:
    """Every external initializer of a model by name, as the file states it, and each part of a fused one.

    Raises VerifyError for one that lies in another file than `location` or whose length does not fit its shape.
    """
    entries: dict[str, Entry] = {}
    model = onnx.load(model_path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        fields = {item.key: item.value for item in tensor.external_data}
        try:
            if fields["location"] != location:
                raise ValueError(f"it lies in `{fields['location']}`")
            entry = Entry(tensor.data_type, tuple(tensor.dims), int(fields["offset"]), int(fields["length"]))
        except (KeyError, ValueError) as error:
            raise VerifyError(f"{model_path.name}: initializer `{tensor.name}` cannot be read: {error}") from error
        entries[tensor.name] = entry
    for item in model.metadata_props:
        if item.key == FUSED_KEY:
            try:
                entries |= _parts(entries, json.loads(item.value))
            except (KeyError, ValueError, AttributeError, TypeError) as error:
                raise VerifyError(f"{model_path.name}: its {FUSED_KEY} does not fit its weights: {error}") from error
    return entries


def _parts(entries: dict[str, Entry], fused: dict[str, dict[str, int]]) -> dict[str, Entry]:
    """The entries of the parts of fused weights."""
    parts: dict[str, Entry] = {}
    for whole, rows in fused.items():
        for name in [name for name in entries if name == whole or name.startswith(f"{whole}/")]:
            first = 0
            for part, count in rows.items():
                parts[part + name.removeprefix(whole)] = entries[name].rows(first, first + count)
                first += count
    return parts
