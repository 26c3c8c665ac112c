"""Where a tensor of the decoder lies in a checkpoint: under which name, in which rows, which way round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `start` to `stop` of each `size` rows of a tensor: one of the projections that it holds together.

    With `size` the whole length, a plain range; with fewer, what is interleaved by heads.
    """

    start: int
    stop: int
    size: int


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The checkpoint's tensor `name` of `shape`, of which `rows` are taken, turned first where it lies `transposed`.

    `add` is added to every value, in float32: some norms are stored as their distance from 1. `index` is the position on the
    first axis of a tensor that holds all experts. `columns` are taken of each row: one layer's of a table of all layers.
    `otherwise` is the source in checkpoints without `name`.
    """

    name: str
    shape: tuple[int, ...]
    rows: Rows | None = None
    transposed: bool = False
    add: float = 0.0
    index: int | None = None
    columns: slice | None = None
    otherwise: TensorSource | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is used as it lies."""
        whole = self.rows is None and self.columns is None and self.index is None
        return whole and not self.transposed and not self.add

    def take(self, tensor: FloatTensor) -> FloatTensor:
        """The decoder's tensor, from the checkpoint's, or from its part at `index`; no value is rounded."""
        data = self._rows(tensor.data.T if self.transposed else tensor.data)
        if self.columns is not None and data.shape[1] == self.shape[1]:  # else these columns alone were read
            data = data[:, self.columns]
        if self.add:
            return FloatTensor(FloatTensor(data, tensor.dtype).float32() + np.float32(self.add), "float32")
        return FloatTensor(np.ascontiguousarray(data), tensor.dtype)

    def take_rows(self, weight: QTensor | AffineTensor) -> QTensor | AffineTensor:
        """The same of a quantised weight: a scale never spans rows."""
        if isinstance(weight, AffineTensor):
            return weight.take(self._rows(np.arange(weight.shape[0])))
        zeros = None if weight.zero_points is None else self._rows(weight.zero_points)
        return replace(weight, codes=self._rows(weight.codes), scales=self._rows(weight.scales), zero_points=zeros)

    def take_codes(self, weight: CodebookTensor) -> CodebookTensor:
        """The same of a weight made of codebooks, which all parts share; raises ValueError for vectors of several outputs."""
        if self.rows is not None and weight.codebooks.shape[2] > 1:
            raise ValueError(
                f"vectors of {weight.codebooks.shape[2]} outputs in a tensor that holds several projections"
            )
        return replace(weight, codes=self._rows(weight.codes), scales=self._rows(weight.scales))

    def _rows(self, data: NDArray[Any]) -> NDArray[Any]:
        if self.rows is None:
            return data
        parts = data.reshape(-1, self.rows.size, *data.shape[1:])[:, self.rows.start : self.rows.stop]
        return np.ascontiguousarray(parts.reshape(-1, *data.shape[1:]))
