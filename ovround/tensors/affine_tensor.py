"""`AffineTensor`: integers whose groups have a scale and a minimum that are no whole steps apart, as in GGUF's block types.

    W[n, k] = scale[n, g] * (code[n, k] - zero_point) - minimum[n, g]

| GGUF type | bits | group | block | zero_point | minimums |
|---|---|---|---|---|---|
| Q4_1, Q5_1 | 4, 5 | 32 | | 0 | float16, their signs turned: the file adds them |
| Q5_0 | 5 | 32 | | 16 | none |
| Q2_K | 2 | 16 | 256 | 0 | float16 of a block, times 4 bits a group |
| Q4_K, Q5_K | 4, 5 | 32 | 256 | 0 | float16 of a block, times 6 bits a group |
| Q3_K, Q6_K | 3, 6 | 16 | 256 | 4, 32 | none |

Only the native operator computes with it (`ovround.tensors.native_layout` has the bytes). A `QTensor` is the special case of
float16 scales whose minimums are whole steps of them, which engines compute with by themselves.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovround.tensors.group_values import GroupValues
from ovround.tensors.scheme import AffineScheme

AFFINE_BITS = (2, 3, 4, 5, 6)
SMALLEST_GROUP, RUN = 16, 32  # a group is 16 inputs, or a multiple of 32


@dataclass(frozen=True, slots=True, eq=False)
class AffineTensor:
    """A quantised weight `[N, K]`; `codes` uint8 `[N, K]` below `2^bits`, `scales` and `minimums` a number a group `[N, G]`.

    `zero_point` is subtracted from every code. `minimums` is None where nothing else is subtracted.
    """

    codes: NDArray[np.uint8]
    scales: GroupValues
    minimums: GroupValues | None
    bits: int
    zero_point: int = 0

    def __post_init__(self) -> None:
        if self.bits not in AFFINE_BITS:
            raise ValueError(f"bits is {self.bits}; one of {AFFINE_BITS} is allowed")
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2:
            raise ValueError(f"codes are {self.codes.dtype} {self.codes.shape}; uint8 [N, K] is needed")
        rows, columns = self.codes.shape
        groups = self.scales.shape[1]
        if len(self.scales.blocks) != rows or columns % groups or not affine_group_fits(columns // groups):
            raise ValueError(f"scales of {self.scales.shape} do not fit codes of {self.codes.shape}")
        if columns % RUN:
            raise ValueError(f"{columns} inputs are no multiple of {RUN}")
        if self.minimums is not None and (
            self.minimums.shape != self.scales.shape or self.minimums.blocks_a_row != self.scales.blocks_a_row
        ):
            raise ValueError(f"minimums of {self.minimums.shape} are not those of scales of {self.scales.shape}")
        if self.minimums is not None and self.zero_point:
            raise ValueError(f"zero_point is {self.zero_point}, yet groups have minimums")
        for what, top in (("code", int(self.codes.max(initial=0))), ("zero point", self.zero_point)):
            if not 0 <= top < 1 << self.bits:
                raise ValueError(f"{what} {top} does not fit {self.bits} bits")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def group_size(self) -> int:
        """Inputs a group."""
        return self.shape[1] // self.scales.shape[1]

    @property
    def symmetric(self) -> bool:
        """Whether groups have no minimums."""
        return self.minimums is None

    @property
    def scheme(self) -> AffineScheme:
        """What a plan says of it."""
        block = None if self.scales.factors is None else self.shape[1] // self.scales.blocks_a_row
        return AffineScheme(self.bits, self.group_size, block, self.zero_point, not self.symmetric)

    @property
    def size_bytes(self) -> int:
        """Bytes of packed codes, scales and minimums, before any engine's padding."""
        minimums = 0 if self.minimums is None else self.minimums.size_bytes
        return self.codes.size * self.bits // 8 + self.scales.size_bytes + minimums

    def dequantize(self) -> NDArray[np.float32]:
        """The weight as float32 `[N, K]`, rounded once, as the `gguf` package computes it."""
        rows, columns = self.shape
        values = self.codes.reshape(rows, -1, self.group_size).astype(np.float32)
        values -= np.float32(self.zero_point)
        values *= self.scales.float32()[:, :, None]
        if self.minimums is not None:
            values -= self.minimums.float32()[:, :, None]
        return values.reshape(rows, columns)

    def take(self, rows: NDArray[np.intp] | slice) -> AffineTensor:
        """These rows alone."""
        minimums = None if self.minimums is None else self.minimums.take(rows)
        return replace(
            self, codes=np.ascontiguousarray(self.codes[rows]), scales=self.scales.take(rows), minimums=minimums
        )

    def digest(self) -> str:
        """sha256 of scheme, shape, codes, scales and minimums: equal digests mean the same numbers in any file format."""
        digest = hashlib.sha256(f"{self.scheme} {self.shape}".encode())
        for part in (self.codes, *self.scales.arrays(), *(() if self.minimums is None else self.minimums.arrays())):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def affine_group_fits(group_size: int) -> bool:
    """Whether a group is 16 inputs or a multiple of 32."""
    return group_size == SMALLEST_GROUP or (group_size > 0 and group_size % RUN == 0)
