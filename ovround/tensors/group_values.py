"""`GroupValues`: one number of each group of a weight, as GGUF's block types hold scales and minimums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class GroupValues:
    """A number of each group, `[N, G]`: a float16 number of a block of groups, times an int8 factor of the group.

    `blocks` float16 `[N, B]`; `factors` int8 `[N, G]`, or None where each group has a float16 number of its own and B is G.
    The products are float32 numbers exactly: 11 bits times 8.
    """

    blocks: NDArray[np.float16]
    factors: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        if self.blocks.dtype != np.float16 or self.blocks.ndim != 2 or self.blocks.shape[1] == 0:
            raise ValueError(f"blocks are {self.blocks.dtype} {self.blocks.shape}; float16 [N, B] is needed")
        if self.factors is None:
            return
        rows, blocks = self.blocks.shape
        if self.factors.dtype != np.int8 or self.factors.ndim != 2 or len(self.factors) != rows:
            raise ValueError(f"factors are {self.factors.dtype} {self.factors.shape}; int8 [{rows}, G] is needed")
        if self.factors.shape[1] == 0 or self.factors.shape[1] % blocks:
            raise ValueError(f"{blocks} blocks do not divide {self.factors.shape[1]} groups")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, G)."""
        values = self.blocks if self.factors is None else self.factors
        return values.shape[0], values.shape[1]

    @property
    def blocks_a_row(self) -> int:
        """B."""
        return int(self.blocks.shape[1])

    @property
    def size_bytes(self) -> int:
        return self.blocks.nbytes + (0 if self.factors is None else self.factors.nbytes)

    def float32(self) -> NDArray[np.float32]:
        """The numbers `[N, G]`, exactly."""
        wide = self.blocks.astype(np.float32)
        if self.factors is None:
            return wide
        return np.repeat(wide, self.shape[1] // self.blocks_a_row, axis=1) * self.factors.astype(np.float32)

    def take(self, rows: NDArray[np.intp] | slice) -> GroupValues:
        """These rows alone."""
        factors = None if self.factors is None else np.ascontiguousarray(self.factors[rows])
        return GroupValues(np.ascontiguousarray(self.blocks[rows]), factors)

    def arrays(self) -> Iterator[NDArray[Any]]:
        """What it is made of, contiguous: blocks, and factors where there are any."""
        yield np.ascontiguousarray(self.blocks)
        if self.factors is not None:
            yield np.ascontiguousarray(self.factors)
