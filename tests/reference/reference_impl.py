"""Slow reference implementations of schemes and byte layouts, one number at a time, written from papers and specifications."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Group:
    """One quantised group: the stored float16 scale, the unsigned zero point, and the unsigned level of each value."""

    scale: np.float16
    zero_point: int
    levels: list[int]

    def values(self) -> list[np.float32]:
        """What an engine computes with: (level - zero point) * scale, in float32."""
        return [np.float32(level - self.zero_point) * np.float32(self.scale) for level in self.levels]


def quantise_group(values: NDArray[np.float32], bits: int, symmetric: bool) -> Group:
    """Round one group to nearest (arXiv 2309.05516; full-range symmetric grid of its reference implementation)."""
    lowest = min(np.float32(0), *values)
    highest = max(np.float32(0), *values)
    top = 2**bits - 1
    if symmetric:
        # The larger extreme lies on the lowest level, -2^(bits-1): the scale is negative when that extreme is positive.
        extreme = lowest if -lowest > highest else highest
        scale = stored(-np.float32(extreme) / np.float32(2 ** (bits - 1)))
        zero_point = 2 ** (bits - 1)
    else:
        scale = stored((highest - lowest) / np.float32(top))
        zero_point = min(max(int(np.rint(-lowest / np.float32(scale))), 0), top)
    levels = [min(max(int(np.rint(value / np.float32(scale))) + zero_point, 0), top) for value in values]
    return Group(scale, zero_point, levels)


def stored(scale: np.float32) -> np.float16:
    """Float16: nearest, but away from zero below 2^-14, where it has the multiples of 2^-24; never zero, to divide by."""
    if abs(scale) >= np.float32(2.0**-14):
        return np.float16(scale)
    size = max(1, math.ceil(float(abs(scale)) * 2**24)) / 2**24
    return np.float16(-size if scale < 0 else size)


def quantise(weight: NDArray[np.float32], bits: int, group_size: int, symmetric: bool) -> list[list[Group]]:
    """Each row's groups."""
    size = weight.shape[1] if group_size == -1 else group_size
    return [
        [quantise_group(row[start : start + size], bits, symmetric) for start in range(0, len(row), size)]
        for row in weight
    ]


def bit_stream(codes: list[int], bits: int) -> bytes:
    """Code k occupies bits [bits * k, bits * (k + 1)) of the stream, lowest bit first; the last byte is zero-filled."""
    stream = 0
    for index, code in enumerate(codes):
        stream |= code << (bits * index)
    return stream.to_bytes((len(codes) * bits + 7) // 8, "little")


def codes_of(stream: bytes, bits: int, count: int) -> list[int]:
    """Undo `bit_stream`."""
    number = int.from_bytes(stream, "little")
    return [number >> (bits * index) & (2**bits - 1) for index in range(count)]
