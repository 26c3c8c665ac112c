"""`QTensor`: integers, scales and zero points, which the tuner yields once and every exporter repacks.

The conventions stated here hold everywhere else:

- A weight is `[N, K]`: N outputs, K inputs; groups run along K, G = K / group_size of them a row.
- `codes` are unsigned levels in `[0, 2^bits)`; the value is `(code - zero_point) * scale`.
- Symmetric means no zero points stored: the zero point is `2^(bits-1)`. Scales may be negative
  (SignRound's full-range symmetric scheme puts the larger extreme on the lowest level).
- `scales` are float16, because both engines hold them so; float32 arithmetic on them is exact enough to
  be the same number everywhere. They are float32 where float16 would lose too much: weights of 1e-8, an imported
  scale of 1e5. Then all of a weight's scales are.
- `order`, of GPTQ checkpoints with activation order: column j of the codes multiplies input `order[j]`, so that the columns
  of a group lie together. Engines get it as a Gather of the layer's input.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = (2, 3, 4, 8)
GROUP_SIZES = (16, 32, 64, 128, 256, -1)
SCALE_TYPES = (np.float16, np.float32)
Scales = NDArray[np.floating[Any]]
SMALLEST_SCALE = 2.0**-24
"""The smallest number of float16 that is not 0."""


def narrowest(scales: NDArray[np.float32]) -> Scales:
    """`scales` as float16 where that changes none of them, as they are otherwise."""
    with np.errstate(over="ignore"):
        narrow = scales.astype(np.float16)
    return narrow if np.array_equal(narrow.astype(np.float32), scales) else scales


@dataclass(frozen=True, slots=True, eq=False)
class QTensor:
    """A quantised weight `[N, K]`; `codes` uint8 `[N, K]`, `scales` float16 or float32 `[N, G]`, `zero_points` uint8 `[N, G]` or None.

    `order` int32 `[K]` is None where columns stand as the inputs do.
    """

    codes: NDArray[np.uint8]
    scales: Scales
    zero_points: NDArray[np.uint8] | None
    bits: int
    order: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits is {self.bits}; one of {BITS} is allowed")
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2:
            raise ValueError(f"codes are {self.codes.dtype} {self.codes.shape}; uint8 [N, K] is needed")
        rows, columns = self.codes.shape
        if self.scales.dtype not in SCALE_TYPES or self.scales.ndim != 2 or self.scales.shape[0] != rows:
            raise ValueError(
                f"scales are {self.scales.dtype} {self.scales.shape}; float16 or float32 [{rows}, G] is needed"
            )
        if self.scales.shape[1] == 0 or columns % self.scales.shape[1]:
            raise ValueError(f"{self.scales.shape[1]} groups do not divide {columns} inputs")
        if self.zero_points is not None and (
            self.zero_points.dtype != np.uint8 or self.zero_points.shape != self.scales.shape
        ):
            raise ValueError(
                f"zero points are {self.zero_points.dtype} {self.zero_points.shape}; uint8 like the scales"
            )
        for what, levels in (("code", self.codes), ("zero point", self.zero_points)):
            top = 0 if levels is None else int(levels.max(initial=0))
            if top >= 1 << self.bits:
                raise ValueError(f"{what} {top} does not fit {self.bits} bits")
        if self.order is not None and not np.array_equal(np.sort(self.order), np.arange(columns)):
            raise ValueError(f"order is no permutation of {columns} inputs")

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
        """Bytes of packed codes, scales, zero points and order, before any engine's padding."""
        zeros = 0 if self.zero_points is None else self.zero_points.size * self.bits // 8
        order = 0 if self.order is None else self.order.nbytes
        return self.codes.size * self.bits // 8 + self.scales.nbytes + zeros + order

    @property
    def scale_bits(self) -> int:
        """16, or 32 where float16 cannot hold the scales."""
        return 8 * self.scales.dtype.itemsize

    def with_float16_scales(self) -> QTensor:
        """The nearest weight whose scales are float16, none of them rounded to 0; raises ValueError for one that is too large."""
        if self.scales.dtype == np.float16:
            return self
        largest = float(np.abs(self.scales).max(initial=0))
        if largest >= float(np.finfo(np.float16).max):
            raise ValueError(f"a scale of {largest:g} is beyond float16")
        least = np.copysign(np.float32(SMALLEST_SCALE), self.scales)
        kept = np.where((np.abs(self.scales) < SMALLEST_SCALE) & (self.scales != 0), least, self.scales)
        return replace(self, scales=kept.astype(np.float16))

    def zeros(self) -> NDArray[np.uint8]:
        """Zero points `[N, G]`, the implied `2^(bits-1)` where none are stored."""
        if self.zero_points is None:
            return np.full(self.scales.shape, 1 << (self.bits - 1), np.uint8)
        return self.zero_points

    def dequantize(self) -> NDArray[np.float32]:
        """The weight as float32 `[N, K]`, columns as the inputs stand: `(code - zero_point) * scale`."""
        rows, columns = self.shape
        grouped = self.codes.reshape(rows, -1, self.group_size).astype(np.float32)
        grouped -= self.zeros().astype(np.float32)[:, :, None]
        grouped *= self.scales.astype(np.float32)[:, :, None]
        weight = grouped.reshape(rows, columns)
        return weight if self.order is None else weight[:, np.argsort(self.order)]

    def digest(self) -> str:
        """sha256 of bits, shape, codes, scales, zero points and order: equal digests mean the same integers in any file format."""
        digest = hashlib.sha256(f"{self.bits} {self.shape} {self.group_size} {self.symmetric}".encode())
        for part in (self.codes, self.scales, self.zero_points, self.order):
            if part is not None:
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()
