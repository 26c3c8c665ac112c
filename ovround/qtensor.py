"""`QTensor`: the integers, scales and zero points that the tuner yields once and every exporter repacks.

The conventions stated here hold everywhere else:

- A weight is `[N, K]`: N outputs, K inputs; groups run along K, G = K / group_size of them a row.
- `codes` are unsigned levels in `[0, 2^bits)`; the value is `(code - zero_point) * scale`.
- Symmetric means no zero points stored: the zero point is `2^(bits-1)`. Scales may be negative
  (SignRound's full-range symmetric grid puts the larger extreme on the lowest level).
- `scales` are float16, because both engines hold them so; float32 arithmetic on them is exact enough to
  be the same number everywhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = (2, 3, 4, 8)
GROUP_SIZES = (16, 32, 64, 128, 256, -1)


@dataclass(frozen=True, slots=True, eq=False)
class QTensor:
    """A quantised weight `[N, K]`; `codes` uint8 `[N, K]`, `scales` float16 `[N, G]`, `zero_points` uint8 `[N, G]` or None."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zero_points: NDArray[np.uint8] | None
    bits: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits is {self.bits}; one of {BITS} is allowed")
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2:
            raise ValueError(f"codes are {self.codes.dtype} {self.codes.shape}; uint8 [N, K] is needed")
        rows, columns = self.codes.shape
        if self.scales.dtype != np.float16 or self.scales.ndim != 2 or self.scales.shape[0] != rows:
            raise ValueError(f"scales are {self.scales.dtype} {self.scales.shape}; float16 [{rows}, G] is needed")
        if self.scales.shape[1] == 0 or columns % self.scales.shape[1]:
            raise ValueError(f"{self.scales.shape[1]} groups do not divide {columns} inputs")
        if self.zero_points is not None and (
            self.zero_points.dtype != np.uint8 or self.zero_points.shape != self.scales.shape
        ):
            raise ValueError(
                f"zero points are {self.zero_points.dtype} {self.zero_points.shape}; uint8 like the scales"
            )
        top = int(self.codes.max(initial=0))
        if top >= 1 << self.bits:
            raise ValueError(f"code {top} does not fit {self.bits} bits")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def group_size(self) -> int:
        """Inputs a group; K itself where one scale serves a whole row."""
        return int(self.codes.shape[1] // self.scales.shape[1])

    @property
    def symmetric(self) -> bool:
        return self.zero_points is None

    @property
    def size_bytes(self) -> int:
        """Bytes of packed codes, scales and zero points, before any engine's padding."""
        zeros = 0 if self.zero_points is None else self.zero_points.size * self.bits // 8
        return self.codes.size * self.bits // 8 + self.scales.nbytes + zeros

    def zeros(self) -> NDArray[np.uint8]:
        """Zero points `[N, G]`, the implied `2^(bits-1)` where none are stored."""
        if self.zero_points is None:
            return np.full(self.scales.shape, 1 << (self.bits - 1), np.uint8)
        return self.zero_points

    def dequantize(self) -> NDArray[np.float32]:
        """The weight as float32 `[N, K]`: `(code - zero_point) * scale`."""
        rows, columns = self.shape
        grouped = self.codes.reshape(rows, -1, self.group_size).astype(np.float32)
        grouped -= self.zeros().astype(np.float32)[:, :, None]
        grouped *= self.scales.astype(np.float32)[:, :, None]
        return grouped.reshape(rows, columns)

    def digest(self) -> str:
        """sha256 of bits, shape, codes, scales and zero points: equal digests mean the same integers, whatever the file format."""
        digest = hashlib.sha256(f"{self.bits} {self.shape} {self.group_size} {self.symmetric}".encode())
        for part in (self.codes, self.scales, self.zero_points):
            if part is not None:
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()
