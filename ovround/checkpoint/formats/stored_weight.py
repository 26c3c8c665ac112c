"""Weights that are stored in parts and read as the numbers that they stand for, since no integer grid of ours holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from ovround.checkpoint.files.element_types import FLOAT_TYPES, TensorInfo
from ovround.checkpoint.hf import Checkpoint
from ovround.tensors.float_tensor import FloatTensor

Parts = Mapping[str, tuple[NDArray[Any], str]]
"""Stored tensors by name: their values as they lie, and safetensors' name of their type."""


class StoredWeight(Protocol):
    """One weight `[..., N, K]`: which tensors it is made of, and what they stand for."""

    @property
    def kind(self) -> str:
        """The format, as a user knows it."""
        ...

    @property
    def dtype(self) -> str:
        """F32, F16 or BF16: what the numbers are read as."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it is made of."""
        ...

    @property
    def scale_names(self) -> tuple[str, ...]:
        """Those of them that `check` needs."""
        ...

    def check(self, parts: Parts) -> None:
        """Raise TensorError for scales with which a level would be no number."""
        ...

    def values(self, parts: Parts) -> NDArray[Any]:
        """The numbers as float32, `shape`, or one expert's `[N, K]`; raises TensorError as `check` does."""
        ...


@dataclass(frozen=True, slots=True)
class DecodedCheckpoint(Checkpoint):
    """See `Checkpoint`; `weights` appear as floats under their names, and the tensors that they are made of do not."""

    weights: Mapping[str, StoredWeight] = field(kw_only=True)
    hidden: frozenset[str] = field(kw_only=True)

    def tensors(self) -> dict[str, TensorInfo]:
        shown = {name: info for name, info in Checkpoint.tensors(self).items() if name not in self.hidden}
        for name, stored in self.weights.items():
            size_bytes = math.prod(stored.shape) * (4 if stored.dtype == "F32" else 2)
            shown[name] = TensorInfo(stored.dtype, stored.shape, 0, size_bytes)
        return shown

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        stored = self.weights.get(name)
        if stored is None:
            return Checkpoint.read(self, name, index)
        values = stored.values({part: self._array(part, index) for part in stored.names})
        return FloatTensor.of(values, FLOAT_TYPES[stored.dtype])

    def scan(self) -> dict[str, str]:
        for stored in self.weights.values():
            stored.check({part: self._array(part, None) for part in stored.scale_names})
        return Checkpoint.scan(self)

    def _array(self, name: str, index: int | None) -> tuple[NDArray[Any], str]:
        return read_part(self, name, index)


def read_part(checkpoint: Checkpoint, name: str, index: int | None = None) -> tuple[NDArray[Any], str]:
    """A tensor as it lies, and its type; of one with three axes or more, the part at `index` of the first."""
    file = next(file for file in checkpoint.files if name in file.tensors)
    info = file.tensors[name]
    return file.read_array(name, index if len(info.shape) > 2 else None), info.dtype


def decoded(
    checkpoint: Checkpoint, weights: Mapping[str, StoredWeight], beside: Iterable[str] = ()
) -> DecodedCheckpoint:
    """`checkpoint` with `weights` in place of their parts; tensors `beside` them are passed over. Says what was found."""
    hidden = frozenset(beside).union(*(stored.names for stored in weights.values()))
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    kinds = [stored.kind for stored in weights.values()]
    notes = [
        f"{kinds.count(kind)} weight(s) are {kind}, read as the numbers that they stand for"
        for kind in sorted(set(kinds))
    ]
    said = (*checkpoint.notes, *notes)
    return DecodedCheckpoint(checkpoint.folder, config, checkpoint.files, weights=weights, hidden=hidden, notes=said)
