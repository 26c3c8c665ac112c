"""Weights on the device: packed at rest, decoded inside the graph that uses them, never kept decoded.

| bits | at rest | decoded by |
|---|---|---|
| 2, 3, 4, a linear layer | int32 words `[K, N/8]`, N padded to a multiple of 8 | convert_from_uint4 |
| 2, 3, 4, a table | int32 words `[V, K/8]`, which rows are gathered from | convert_from_uint4 |
| 8, or rows that 8 does not divide | uint8 `[N, K]` | plain products |
| 16 | as stored, in the type that is computed in | nothing |

2 and 3 bits take the place of 4: the device has no operator for them. Symmetric weights have zero points of 8 (the middle
of their width), which layers of one shape share. Scales and everything in float are in the type that is computed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ovround.runtime.hpu.operator import NUMBERS, Convert, pack
from ovround.tensors.qtensor import QTensor

_NIBBLE = 4


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A linear layer of N outputs: words `[K, N/8]`, scales `[G, N]`, packed zero points `[G, N/8]`; `order` as in `QTensor`."""

    words: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    outputs: int
    order: torch.Tensor | None = None

    @property
    def inputs(self) -> int:
        """K."""
        return self.words.shape[0]

    def apply(self, x: torch.Tensor, convert: Convert) -> torch.Tensor:
        """`[..., K]` -> `[..., N]`."""
        if self.order is not None:
            x = x.index_select(-1, self.order)
        weight = convert(self.words, self.scales, self.zeros, x.dtype)
        return (x @ weight).narrow(-1, 0, self.outputs)

    def tensors(self) -> Iterator[torch.Tensor]:
        yield from (self.words, self.scales, self.zeros)
        if self.order is not None:
            yield self.order


@dataclass(frozen=True, slots=True, eq=False)
class TableWords:
    """A table of V rows, which may be the head too: words `[V, K/8]`, scales and zero points `[V, G]` or `[1, 1]`."""

    words: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    def rows(self, ids: torch.Tensor, convert: Convert) -> torch.Tensor:
        """ids `[B, T]` -> `[B, T, K]`."""
        chosen = ids.flatten()
        scales = self.scales.index_select(0, chosen)
        zeros = self.zeros.expand(scales.shape) if len(self.zeros) == 1 else self.zeros.index_select(0, chosen)
        rows = convert(self.words.index_select(0, chosen), scales, zeros.contiguous(), scales.dtype)
        embedded: torch.Tensor = rows.unflatten(0, ids.shape)
        return embedded

    @property
    def inputs(self) -> int:
        """K."""
        return self.words.shape[1] * NUMBERS

    def apply(self, x: torch.Tensor, convert: Convert) -> torch.Tensor:
        """`[..., K]` -> `[..., V]`."""
        zeros = self.zeros.expand(self.scales.shape).contiguous()
        return F.linear(x, convert(self.words, self.scales, zeros, x.dtype))

    def tensors(self) -> Iterator[torch.Tensor]:
        yield from (self.words, self.scales, self.zeros)


@dataclass(frozen=True, slots=True, eq=False)
class Bytes:
    """A linear layer or table, a byte a number: `[N, K]`, scales `[N, G]`, zero points `[N, G]` or `[1, 1]`."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    order: torch.Tensor | None = None

    @property
    def inputs(self) -> int:
        """K."""
        return self.codes.shape[1]

    def apply(self, x: torch.Tensor, convert: Convert) -> torch.Tensor:
        """`[..., K]` -> `[..., N]`."""
        if self.order is not None:
            x = x.index_select(-1, self.order)
        return F.linear(x, _decode(self.codes, self.scales, self.zeros))

    def rows(self, ids: torch.Tensor, convert: Convert) -> torch.Tensor:
        """ids `[B, T]` -> `[B, T, K]`."""
        chosen = ids.flatten()
        zeros = self.zeros if len(self.zeros) == 1 else self.zeros.index_select(0, chosen)
        rows = _decode(self.codes.index_select(0, chosen), self.scales.index_select(0, chosen), zeros)
        embedded: torch.Tensor = rows.unflatten(0, ids.shape)
        return embedded

    def tensors(self) -> Iterator[torch.Tensor]:
        yield from (self.codes, self.scales, self.zeros)
        if self.order is not None:
            yield self.order


Stored = Words | TableWords | Bytes


def _decode(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """Codes uint8 `[..., K]`, scales `[..., G]`, zero points uint8 `[..., G]` or `[1, 1]` -> `[..., K]`.

    8-bit integers and their differences are exact in bfloat16.
    """
    grouped = codes.unflatten(-1, (scales.shape[-1], -1)).to(scales.dtype)
    decoded: torch.Tensor = ((grouped - zeros.to(scales.dtype).unsqueeze(-1)) * scales.unsqueeze(-1)).flatten(-2)
    return decoded


@dataclass(slots=True)
class Packer:
    """Repacks weights one by one, on the CPU, and moves each to `device` before the next; `dtype` is what is computed in."""

    dtype: torch.dtype
    device: str
    _shared: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    def store(self, weight: QTensor, *, table: bool) -> Stored:
        """`weight` as it lies at rest; `table` where rows of it are gathered."""
        scales = torch.from_numpy(weight.scales.astype(np.float32)).to(self.dtype)
        order = None if weight.order is None else self._move(torch.from_numpy(weight.order.astype(np.int64)))
        rows, columns = weight.shape
        if weight.bits > _NIBBLE or (table and (columns % NUMBERS or order is not None)):
            zeros = self._byte_zeros(weight)
            return Bytes(self._move(torch.from_numpy(weight.codes)), self._move(scales), zeros, order)
        if table:
            words = self._move(pack(torch.from_numpy(weight.codes)))
            levels = weight.zeros() if weight.zero_points is not None else weight.zeros()[:1, :1]
            zeros = torch.from_numpy(levels.astype(np.float32)).to(self.dtype)
            return TableWords(words, self._move(scales), self._move(zeros))
        words = pack(torch.from_numpy(_padded(weight.codes).T.copy()))
        padded = torch.from_numpy(_padded(scales.float().numpy()).T.copy()).to(self.dtype)
        return Words(self._move(words), self._move(padded), self._word_zeros(weight), rows, order)

    def plain(self, values: NDArray[np.float32]) -> torch.Tensor:
        """A tensor that is in float."""
        return self._move(torch.from_numpy(values).to(self.dtype))

    def _byte_zeros(self, weight: QTensor) -> torch.Tensor:
        if weight.zero_points is not None:
            return self._move(torch.from_numpy(weight.zero_points))
        return self._share((weight.bits,), torch.full((1, 1), 1 << (weight.bits - 1), dtype=torch.uint8))

    def _word_zeros(self, weight: QTensor) -> torch.Tensor:
        zeros = pack(torch.from_numpy(_padded(weight.zeros()).T.copy()))
        return self._move(zeros) if weight.zero_points is not None else self._share((weight.bits, *zeros.shape), zeros)

    def _share(self, key: tuple[int, ...], values: torch.Tensor) -> torch.Tensor:
        if key not in self._shared:
            self._shared[key] = self._move(values)
        return self._shared[key]

    def _move(self, values: torch.Tensor) -> torch.Tensor:
        return values.contiguous().to(self.device)


def _padded(rows: NDArray[np.generic]) -> NDArray[np.generic]:
    """`[N, ...]` with N padded by zeros to a multiple of 8."""
    return np.pad(rows, ((0, -len(rows) % NUMBERS), (0, 0)))
