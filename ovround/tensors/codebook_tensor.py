"""`CodebookTensor`: an additively quantised weight (AQLM), as its Hugging Face checkpoints hold it.

Each vector of `in` neighbouring inputs of `out` neighbouring outputs is the sum of one entry of each of M codebooks, times
its row's scale (Egiazarian et al. 2024, arXiv 2401.06118):

    W[o * out + a, g * in + b] = scales[o] * sum over m of codebooks[m, codes[o, g, m], a, b]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class CodebookTensor:
    """`codes` uint16 `[N / out, K / in, M]`, `codebooks` float16 `[M, entries, out, in]`, `scales` float16 `[N / out]`."""

    codes: NDArray[np.uint16]
    codebooks: NDArray[np.float16]
    scales: NDArray[np.float16]

    def __post_init__(self) -> None:
        if self.codes.dtype != np.uint16 or self.codes.ndim != 3 or self.codes.shape[2] != self.codebooks.shape[0]:
            raise ValueError(f"codes are {self.codes.dtype} {self.codes.shape}; uint16 [N / out, K / in, M] is needed")
        if self.codebooks.dtype != np.float16 or self.codebooks.ndim != 4:
            raise ValueError(
                f"codebooks are {self.codebooks.dtype} {self.codebooks.shape}; float16 [M, entries, out, in]"
            )
        if self.scales.dtype != np.float16 or self.scales.shape != self.codes.shape[:1]:
            raise ValueError(
                f"scales are {self.scales.dtype} {self.scales.shape}; float16 [{len(self.codes)}] is needed"
            )
        top = int(self.codes.max(initial=0))
        if top >= self.codebooks.shape[1]:
            raise ValueError(f"code {top} is beyond a codebook of {self.codebooks.shape[1]} entries")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0] * self.codebooks.shape[2], self.codes.shape[1] * self.codebooks.shape[3]

    @property
    def code_bits(self) -> int:
        """Bits of one code: enough for every entry."""
        return max(1, int(self.codebooks.shape[1] - 1).bit_length())

    @property
    def size_bytes(self) -> int:
        """Bytes of packed codes, codebooks and scales; containers whose codes fill whole bytes take more."""
        return -(-self.codes.size * self.code_bits // 8) + self.codebooks.nbytes + self.scales.nbytes

    def dequantize(self) -> NDArray[np.float32]:
        """The weight as float32 `[N, K]`."""
        rows, groups, books = self.codes.shape
        vectors = np.zeros((rows, groups, *self.codebooks.shape[2:]), np.float32)
        for book in range(books):
            vectors += self.codebooks[book].astype(np.float32)[self.codes[:, :, book]]
        vectors *= self.scales.astype(np.float32)[:, None, None, None]
        return vectors.transpose(0, 2, 1, 3).reshape(self.shape)

    def digest(self) -> str:
        """sha256 of shapes, codes, codebooks and scales."""
        digest = hashlib.sha256(f"{self.codes.shape} {self.codebooks.shape}".encode())
        for part in (self.codes, self.codebooks, self.scales):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()
