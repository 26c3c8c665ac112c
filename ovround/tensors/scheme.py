"""How a weight is stored: integers on a grid (`QuantScheme`, `AffineScheme`), or sums of entries of codebooks (`Codebooks`)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ovround.errors import UsageError

FLOAT_BITS = 16
"""The bits of a weight that is not quantised."""
CODEBOOK_VALUE_BITS = 16  # entries and scales are float16
CODEBOOK_COUNTS, CODEBOOK_BITS, VECTOR_SIZES = range(1, 17), range(1, 17), (2, 4, 8, 16, 32)
DEFAULT_GROUP_SIZES = (128, 64, 32, 16)
"""The groups of a weight whose group size nobody stated: the first of these that divides its inputs."""
_AFFINE = re.compile(r"(\d+):(\d+)(?:/(\d+))?-(?:(\d+)|(m))")
_SPEC = re.compile(r"(\d+)x(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """Integers of one weight: their bits, the inputs of a group (-1: one group a row), symmetric or with zero points."""

    bits: int
    group_size: int
    symmetric: bool


def default_group_size(inputs: int) -> int:
    """The largest of `DEFAULT_GROUP_SIZES` that divides `inputs`; -1, one group a row, where none does."""
    return next((size for size in DEFAULT_GROUP_SIZES if inputs % size == 0), -1)


@dataclass(frozen=True, slots=True)
class AffineScheme:
    """Integers of one weight whose groups have float scales and, with `minimum`, float minimums: see `AffineTensor`.

    `block_size` is the inputs that share a float16 number, which each group multiplies by 8 bits; None where each group has its own.
    """

    bits: int
    group_size: int
    block_size: int | None
    zero_point: int
    minimum: bool

    @classmethod
    def parse(cls, text: str) -> AffineScheme:
        """Read what `spec` writes; raises ValueError for anything else."""
        match = _AFFINE.fullmatch(text)
        if not match:
            raise ValueError(f"affine scheme is `{text:.40}`; such as 4:32/256 is needed")
        bits, group, block, zero_point, minimum = match.groups()
        return cls(int(bits), int(group), int(block) if block else None, int(zero_point or 0), minimum is not None)

    @property
    def spec(self) -> str:
        """Bits, group, block and what is subtracted: `4:32/256-m` with minimums, `6:16/256-32` with a zero point."""
        block = "" if self.block_size is None else f"/{self.block_size}"
        return f"{self.bits}:{self.group_size}{block}{'-m' if self.minimum else f'-{self.zero_point}'}"

    @property
    def symmetric(self) -> bool:
        return not self.minimum

    def size_bits(self, shape: tuple[int, ...]) -> float:
        """Bits of a weight `[N, K]`: codes, scales and minimums."""
        weights = math.prod(shape)
        numbers = 16 / self.group_size if self.block_size is None else 8 / self.group_size + 16 / self.block_size
        return weights * (self.bits + numbers * (2 if self.minimum else 1))

    def __str__(self) -> str:
        return self.spec


@dataclass(frozen=True, slots=True)
class Codebooks:
    """Additive codebooks of one weight: each vector of `vector_size` inputs is a sum of one entry of each of `count` codebooks.

    A codebook has `2^bits` entries and serves one weight `[N, K]`; each of its N rows has a scale.
    """

    count: int
    bits: int
    vector_size: int

    @classmethod
    def parse(cls, text: str) -> Codebooks:
        """Read `COUNTxBITS:VECTOR_SIZE`, such as 2x8:8; raises UsageError that says which part is wrong."""
        match = _SPEC.fullmatch(text.strip())
        if not match:
            raise UsageError(
                f"codebooks is `{text}`; COUNTxBITS:VECTOR_SIZE is needed", hint="example: --codebooks 2x8:8"
            )
        codebooks = cls(*map(int, match.groups()))
        codebooks.check()
        return codebooks

    def check(self) -> None:
        """Raise UsageError for a count, bits or vector size that no format holds."""
        for what, value, allowed in (("count", self.count, CODEBOOK_COUNTS), ("bits", self.bits, CODEBOOK_BITS)):
            if value not in allowed:
                raise UsageError(f"codebooks {self.spec}: {what} is {value}; {allowed[0]} to {allowed[-1]} is allowed")
        if self.vector_size not in VECTOR_SIZES:
            sizes = ", ".join(map(str, VECTOR_SIZES))
            raise UsageError(f"codebooks {self.spec}: vector size is {self.vector_size}; allowed: {sizes}")

    @property
    def spec(self) -> str:
        """As `parse` reads it."""
        return f"{self}:{self.vector_size}"

    @property
    def code_bits(self) -> float:
        """Bits a weight of the codes alone."""
        return self.count * self.bits / self.vector_size

    @property
    def entry_bits(self) -> int:
        """Bits of all entries of all codebooks of one weight."""
        return self.count * self.vector_size * CODEBOOK_VALUE_BITS << self.bits

    def size_bits(self, shape: tuple[int, ...]) -> float:
        """Bits of a weight `[N, K]`: codes, entries and scales."""
        return self.code_bits * shape[0] * shape[1] + self.entry_bits + CODEBOOK_VALUE_BITS * shape[0]

    def __str__(self) -> str:
        return f"{self.count}x{self.bits}"


WeightScheme = QuantScheme | AffineScheme | Codebooks
