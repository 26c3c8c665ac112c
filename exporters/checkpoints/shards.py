"""safetensors shards, written as tensors arrive: 8 bytes of header length, the header as JSON, the data.

A header stands before data that is not known yet. So the data goes to a scratch file first, and is copied after its header when
the shard is full. Meanwhile the disk holds one shard twice, and memory one tensor.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.files.element_types import ARRAY_TYPES

SHARD_BYTES = 2_000_000_000
_TYPES = {np.dtype(storage).name: kind for kind, storage in ARRAY_TYPES.items()} | {"bfloat16": "BF16"}
_ALIGNMENT = 8


class ShardWriter:
    """Writes `model.safetensors` into `folder`, or numbered shards and their index when there are several."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._entries: dict[str, dict[str, Any]] = {}
        self._shards: list[list[str]] = []
        self._scratch = folder / "shard.partial"
        self._file: BinaryIO = self._scratch.open("wb")
        self._written = self._total = 0

    def write(self, name: str, data: NDArray[Any], dtype: str | None = None) -> None:
        """Append a tensor; `dtype` is `bfloat16` for uint16 bit patterns of it."""
        payload = np.ascontiguousarray(data)
        if self._entries and self._written + payload.nbytes > self._shard_bytes:
            self._close_shard()
        end = self._written + payload.nbytes
        kind = _TYPES[dtype or payload.dtype.name]
        self._entries[name] = {"dtype": kind, "shape": list(data.shape), "data_offsets": [self._written, end]}
        self._file.write(payload.data if payload.size else b"")
        self._written = end

    def finish(self) -> None:
        """Close the last shard, give all their names, and write the index where there are several."""
        self._close_shard()
        self._file.close()
        self._scratch.unlink()
        count = len(self._shards)
        if count == 1:
            self._part(0).rename(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            shard = f"model-{number + 1:05}-of-{count:05}.safetensors"
            self._part(number).rename(self._folder / shard)
            weight_map |= dict.fromkeys(names, shard)
        index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
        path = self._folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def close(self) -> None:
        self._file.close()

    def _close_shard(self) -> None:
        self._file.close()
        header = json.dumps({"__metadata__": {"format": "pt"}, **self._entries}, separators=(",", ":")).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        with self._part(len(self._shards)).open("wb") as shard, self._scratch.open("rb") as data:
            shard.write(len(header).to_bytes(8, "little") + header)
            shutil.copyfileobj(data, shard, 1 << 22)
        self._shards.append(list(self._entries))
        self._total += self._written
        self._entries, self._written = {}, 0
        self._file = self._scratch.open("wb")

    def _part(self, number: int) -> Path:
        return self._folder / f"shard-{number}.partial"
