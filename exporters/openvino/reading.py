"""A written OpenVINO folder's weights, by the names and grids that its manifest states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ovround.artifact.manifest import WeightRecord
from ovround.exporters.openvino.compressed import Stored, read_weight
from ovround.exporters.openvino.constants import read_entries
from ovround.exporters.target import Weight
from ovround.tensors.qtensor import BITS


class Reader:
    """Reads one weight at a time; raises VerifyError for one that is not as `records` say."""

    def __init__(self, folder: Path, records: Mapping[str, WeightRecord]) -> None:
        self._path = folder / "openvino_model.bin"
        self._entries = read_entries(folder / "openvino_model.xml")
        self._stored = {
            name: self._grid(record) for name, record in records.items() if record.codebooks or record.bits in BITS
        }

    def _grid(self, record: WeightRecord) -> Stored:
        """What the manifest says of a weight; for the native operator: of codebooks, or up to 4 bits in bytes of their own."""
        shape = (record.shape[0], record.shape[-1])
        if record.codebooks:
            return Stored(0, False, shape)
        entry = self._entries.get(record.name)
        native = record.bits in (2, 3, 4) and entry is not None and entry.element_type == "u8"
        return Stored(record.bits, record.symmetric, shape if native else None)

    def read(self, name: str) -> Weight:
        with self._path.open("rb") as file:
            return read_weight(file, self._entries, name, self._stored.get(name))
