"""A written ONNX folder's weights, by the names and grids that its manifest states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ovround.artifact.manifest import WeightRecord
from ovround.exporters.native_parts import SCALE
from ovround.exporters.onnx.external_data import read_entries
from ovround.exporters.onnx.matmul_nbits import layout_for, read_weight
from ovround.exporters.onnx.native import NativeLayout, read_native_weight
from ovround.exporters.target import Weight
from ovround.tensors.qtensor import BITS


class Reader:
    """Reads one weight at a time; raises VerifyError for one that is not as `records` say."""

    def __init__(self, folder: Path, records: Mapping[str, WeightRecord]) -> None:
        self._path = folder / "model.onnx.data"
        self._entries = read_entries(folder / "model.onnx", self._path.name)
        self._records = records

    def read(self, name: str) -> Weight:
        record = self._records[name]
        layout = None
        shape = (record.shape[0], record.shape[-1])
        if record.codebooks or name + SCALE in self._entries:
            native = NativeLayout(shape, 0 if record.codebooks else record.bits, record.symmetric)
            with self._path.open("rb") as file:
                return read_native_weight(file, self._entries, name, native)
        if record.bits in BITS:
            group = shape[1] if record.group_size == -1 else record.group_size
            layout = layout_for(shape, record.bits, group, symmetric=record.symmetric)
        with self._path.open("rb") as file:
            return read_weight(file, self._entries, name, layout)
