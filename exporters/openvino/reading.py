"""A written OpenVINO folder's weights, by the names and grids that its manifest states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ovround.artifact import WeightRecord
from ovround.exporters.openvino.compressed import Stored, read_weight
from ovround.exporters.openvino.constants import read_entries
from ovround.exporters.target import Weight
from ovround.qtensor import BITS


class Reader:
    """Reads one weight at a time; raises VerifyError for one that is not as `records` say."""

    def __init__(self, folder: Path, records: Mapping[str, WeightRecord]) -> None:
        self._path = folder / "openvino_model.bin"
        self._entries = read_entries(folder / "openvino_model.xml")
        self._stored = {
            name: Stored(record.bits, record.symmetric) for name, record in records.items() if record.bits in BITS
        }

    def read(self, name: str) -> Weight:
        with self._path.open("rb") as file:
            return read_weight(file, self._entries, name, self._stored.get(name))
