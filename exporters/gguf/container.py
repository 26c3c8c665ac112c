"""A GGUF file that is written as tensors arrive: a header with every tensor's type and place, then the tensors.

The header comes first and names types that are known once a tensor has arrived. Its length depends on names and shapes alone,
so room is left for it, and it is written last. `gguf.GGUFWriter` makes its bytes. That class also writes tensors, but only of
types and in an order that were stated before the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

Metadata = Mapping[str, Any]
"""Key and value: bool, int (uint32), float (float32), text, or a list of one of these."""
ALIGNMENT = 32  # bytes


class GgufFile:
    """Writes `path` with `metadata` and tensors of these shapes, by name; `write` takes them in any order."""

    def __init__(
        self, path: Path, architecture: str, metadata: Metadata, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._path, self._architecture, self._metadata, self._shapes = path, architecture, dict(metadata), dict(shapes)
        self._types: dict[str, tuple[str, int]] = {}  # type and bytes, in the order of the file
        placeholder = dict.fromkeys(shapes, ("F32", ALIGNMENT))
        self._header_bytes = len(self._header(placeholder))
        self._file: BinaryIO = path.open("wb")
        self._pad(self._header_bytes)

    def write(self, name: str, kind: str, data: NDArray[Any]) -> None:
        """Append tensor `name` of type `kind`, whose bytes are those of `data`."""
        self._types[name] = (kind, data.nbytes)
        self._file.write(np.ascontiguousarray(data).data)
        self._pad(-data.nbytes % ALIGNMENT)

    def finish(self, changed: Metadata) -> None:
        """Write the header and close the file; `changed` are numbers of the metadata that are known by now.

        Raises ValueError when a tensor has not arrived.
        """
        missing = self._shapes.keys() - self._types.keys()
        if missing:
            raise ValueError(f"{len(missing)} tensors have not arrived, such as {min(missing)}")
        self._metadata |= changed
        header = self._header(self._types)
        if len(header) != self._header_bytes:
            raise ValueError(f"the header has {len(header)} bytes, {self._header_bytes} were left for it")
        self._file.seek(0)
        self._file.write(header)
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def _pad(self, count: int) -> None:
        self._file.write(b"\0" * count)

    def _header(self, types: Mapping[str, tuple[str, int]]) -> bytes:
        """Everything before the first tensor, for tensors of these types in this order, padded."""
        path = self._path.with_suffix(".header.partial")
        writer = GGUFWriter(path, self._architecture)
        for key, value in self._metadata.items():
            _add(writer, key, value)
        for name, (kind, size_bytes) in types.items():
            raw_type = GGMLQuantizationType[kind]
            writer.add_tensor_info(name, self._shapes[name], np.dtype(np.float32), size_bytes, raw_type)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            writer.close()
            header = path.read_bytes()
        finally:
            writer.close()
            path.unlink(missing_ok=True)
        return header + b"\0" * (-len(header) % ALIGNMENT)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
