"""What the passes hand over: finished tensors, one by one or a block at a time, and what was measured on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ovround.artifact.manifest import BlockRecord, Quality
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

StoredWeight = QTensor | FloatTensor | AffineTensor | CodebookTensor


@dataclass(frozen=True, slots=True)
class Emitted:
    """One finished tensor of the model; `relative_error` is |W - Wq| / |W|, 0 for one left in float.

    `offsets` are those of `TunedWeight.offsets`; a later pass continues from them.
    """

    name: str
    weight: StoredWeight
    relative_error: float
    offsets: NDArray[np.int8] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FinishedBlock:
    """A block's tensors in the model's order; `record` is None where none of them was tuned."""

    tensors: tuple[Emitted, ...]
    record: BlockRecord | None

    def digest(self) -> str:
        """sha256 over all tensors."""
        return hashlib.sha256(" ".join(tensor.weight.digest() for tensor in self.tensors).encode()).hexdigest()

    def events(self) -> Iterator[Emitted | BlockRecord]:
        """The tensors in the model's order, then the record where there is one."""
        yield from self.tensors
        if self.record is not None:
            yield self.record


Event = Emitted | BlockRecord | Quality
