"""Reads the weights of a written checkpoint folder, by the reader of everybody's checkpoints (`ovround.checkpoint`).

The folder is opened as `ovround convert` opens a source: from config.json on. Formats store some weights in wider codes or
smaller groups; the manifest states the scheme that each weight was tuned on, to which it is brought back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ovround.artifact.manifest import WeightRecord
from ovround.checkpoint import Checkpoint, PackedCheckpoint, mapped, mapped_packed, open_source
from ovround.errors import OvroundError, VerifyError
from ovround.exporters.exporter import Weight
from ovround.models import from_config
from ovround.tensors.qtensor import BITS, QTensor
from ovround.tensors.reexpression import restored


class Reader:
    """Reads one weight at a time; `exporters.exporter.Reader` is the protocol."""

    def __init__(self, folder: Path, records: Mapping[str, WeightRecord]) -> None:
        """Compares names, types and shapes of all tensors with what config.json calls for."""
        self._records = records
        try:
            source = open_source(folder)
            decoder = from_config(source.config)
            expected, unused = decoder.every_tensor(), decoder.unused_tensors()
            self._source: Checkpoint | PackedCheckpoint
            if isinstance(source, Checkpoint):
                self._source = mapped(source, decoder.sources(), expected)
            else:
                self._source = mapped_packed(source, decoder.sources(), expected)
            self._source.check(expected, unused)
        except (OvroundError, ValueError) as error:
            raise VerifyError(f"`{folder.name}` cannot be read back: {error}") from error

    def read(self, name: str) -> Weight:
        record = self._records[name]
        try:
            weight = self._stored(name, record)
            if isinstance(weight, QTensor) != (record.bits in BITS and not record.codebooks):
                raise ValueError(f"it is a {type(weight).__name__}")
            if not isinstance(weight, QTensor):
                return weight
            return restored(weight, record.bits, record.group_size, record.symmetric)
        except (OvroundError, ValueError) as error:
            raise VerifyError(f"weight `{name}` cannot be read back: {error}") from error

    def _stored(self, name: str, record: WeightRecord) -> Weight:
        source = self._source
        return source.read(name) if isinstance(source, Checkpoint) else source.read(name, record.shape)
