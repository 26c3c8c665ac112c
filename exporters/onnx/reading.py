"""Reads the weights of a written ONNX folder, by the names, bits and shapes that its manifest states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ovround.artifact.manifest import WeightRecord
from ovround.errors import VerifyError
from ovround.exporters.affine_rows import ROWS, read_rows
from ovround.exporters.exporter import Weight
from ovround.exporters.native_parts import SCALE, read_native
from ovround.exporters.onnx.external_data import FLOAT_TYPES, GRAPH_FILE, WEIGHTS_FILE, Entry, read_entries
from ovround.exporters.onnx.matmul_nbits import ORDER, SCALES, ZERO_POINTS, layout_for
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.packing import unpack_rows
from ovround.tensors.qtensor import BITS, QTensor, Scales
from ovround.tensors.reexpression import merged_groups

Entries = Mapping[str, Entry]


class Reader:
    """Reads one weight at a time; `exporters.exporter.Reader` is the protocol."""

    def __init__(self, folder: Path, records: Mapping[str, WeightRecord]) -> None:
        self._path, self._records = folder / WEIGHTS_FILE, records
        self._entries = read_entries(folder / GRAPH_FILE, WEIGHTS_FILE)

    def read(self, name: str) -> Weight:
        with self._path.open("rb") as source:
            return read_weight(source, self._entries, self._records[name])


def read_weight(source: BinaryIO, entries: Entries, record: WeightRecord) -> Weight:
    """The weight of `record`, from an open weights file and the entries of its graph.

    Raises VerifyError when its initializers are missing or cannot be such a weight, for instance when the blocks of one
    group have different scales.
    """
    try:
        if record.name + ROWS in entries:
            return read_rows(lambda part: entries[part].read(source), entries, record)
        if record.codebooks or record.affine or record.name + SCALE in entries:  # for the native operator
            return read_native(lambda part: entries[part].read(source).reshape(entries[part].shape), record)
        if record.bits in BITS:
            return _read_quantised(source, entries, record)
        entry = entries[record.name]
        dtype = next(dtype for dtype, data_type in FLOAT_TYPES.items() if data_type == entry.data_type)
        return FloatTensor.from_bytes(entry.read(source), dtype, entry.shape)
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise VerifyError(f"weight `{record.name}` cannot be read back: {error!r}") from error


def _read_quantised(source: BinaryIO, entries: Entries, record: WeightRecord) -> QTensor:
    name, rows, columns = record.name, record.shape[0], record.shape[-1]
    group_size = columns if record.group_size == -1 else record.group_size
    layout = layout_for((rows, columns), record.bits, group_size, symmetric=record.symmetric)
    bits, groups = layout.stored_bits, columns // group_size
    data = entries[name].read(source).reshape(rows, -1)
    codes = unpack_rows(data, bits, layout.blocks * layout.block_size)[:, :columns]
    wide = entries[name + SCALES].read(source).view(np.float32).reshape(rows, layout.blocks)
    scales: Scales = wide
    if record.scale_bits == 16:
        with np.errstate(over="ignore"):
            scales = wide.astype(np.float16)
        if not np.array_equal(scales.astype(np.float32).view(np.uint32), wide.view(np.uint32)):
            raise ValueError("its scales are no float16 values")
    zero_points = None
    if (name + ZERO_POINTS in entries) == record.symmetric:
        raise ValueError(f"symmetric is {record.symmetric}, which its zero points contradict")
    if not record.symmetric:
        packed = entries[name + ZERO_POINTS].read(source).reshape(rows, -1)
        zero_points = merged_groups(unpack_rows(packed, bits, layout.blocks), groups)
    order = entries[name + ORDER].read(source).view(np.int32) if name + ORDER in entries else None
    # A code below the shift wraps around to a level that QTensor refuses.
    return QTensor(codes - np.uint8(layout.shift), merged_groups(scales, groups), zero_points, record.bits, order)
