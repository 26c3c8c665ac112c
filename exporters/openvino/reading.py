"""Reads the weights of a written OpenVINO folder, by the names, bits and shapes that its manifest states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ovround.artifact.manifest import WeightRecord
from ovround.errors import VerifyError
from ovround.exporters.affine_rows import ROWS, read_rows
from ovround.exporters.exporter import Weight
from ovround.exporters.native_parts import read_native
from ovround.exporters.openvino.compressed import ORDER, SCALE, ZERO_POINT, decoded
from ovround.exporters.openvino.storage import FLOAT_TYPES, GRAPH_FILE, WEIGHTS_FILE, Entry, read_entries
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.packing import unpack_rows
from ovround.tensors.qtensor import BITS, QTensor, Scales

Entries = Mapping[str, Entry]


class Reader:
    """Reads one weight at a time; `exporters.exporter.Reader` is the protocol."""

    def __init__(self, folder: Path, records: Mapping[str, WeightRecord]) -> None:
        self._path, self._records = folder / WEIGHTS_FILE, records
        self._entries = read_entries(folder / GRAPH_FILE)

    def read(self, name: str) -> Weight:
        with self._path.open("rb") as source:
            return read_weight(source, self._entries, self._records[name])


def read_weight(source: BinaryIO, entries: Entries, record: WeightRecord) -> Weight:
    """The weight of `record`, from an open weights file and the entries of its graph.

    Raises VerifyError when its constants are missing or cannot be such a weight.
    """
    try:
        if record.name + ROWS in entries:
            return read_rows(lambda part: entries[part].read(source), entries, record)
        entry = entries[record.name]
        if (
            record.codebooks or record.affine or (record.bits in (2, 3, 4) and entry.element_type == "u8")
        ):  # for the native operator
            return read_native(lambda part: entries[part].read(source).reshape(entries[part].shape), record)
        if record.bits in BITS:
            return _read_quantised(source, entries, record)
        dtype = next(dtype for dtype, kind in FLOAT_TYPES.items() if kind == entry.element_type)
        return FloatTensor.from_bytes(entry.read(source), dtype, entry.shape)
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise VerifyError(f"weight `{record.name}` cannot be read back: {error!r}") from error


def _read_quantised(source: BinaryIO, entries: Entries, record: WeightRecord) -> QTensor:
    name, entry = record.name, entries[record.name]
    rows, groups, group = entry.shape
    codes = decoded(entry.read(source), entry.element_type, record.bits, rows * groups * group)
    codes = codes.reshape(rows, groups * group)
    stored = entries[name + SCALE].read(source)
    scales: Scales = (stored.view(np.float16) if record.scale_bits == 16 else stored.view(np.float32)).reshape(
        rows, groups
    )
    zero_points = _read_zero_points(source, entries.get(name + ZERO_POINT), record, (rows, groups))
    order = entries[name + ORDER].read(source).view(np.int32) if name + ORDER in entries else None
    return QTensor(codes, scales, zero_points, record.bits, order)


def _read_zero_points(
    source: BinaryIO, entry: Entry | None, record: WeightRecord, shape: tuple[int, int]
) -> NDArray[np.uint8] | None:
    if entry is None:
        if not record.symmetric:
            raise ValueError("asymmetric, yet without zero points")
        return None
    data = entry.read(source)
    if record.symmetric:
        if data.tolist() != [1 << (record.bits - 1)]:
            raise ValueError(f"symmetric, yet with zero points {data[:4]}")
        return None
    return unpack_rows(data, 4 if entry.element_type == "u4" else 8, shape[0] * shape[1]).reshape(shape)
