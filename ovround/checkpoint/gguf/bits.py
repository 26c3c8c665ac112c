"""Numbers packed into GGUF's blocks, where several types have them alike: float16, nibbles, and scales of 6 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.gguf.types import Bytes


def float16_at(blocks: Bytes, start: int) -> NDArray[np.float16]:
    """The number at byte `start` of each block: `[..., bytes]` as `[...]`."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0]


def nibbles(packed: Bytes) -> Bytes:
    """`[..., B]` bytes as `[..., 2 B]`: all low nibbles, then all high ones."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)


def six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """8 scales and 8 minimums of 6 bits from 12 bytes: the last four borrow the high bits of the first ones."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=-1)
    minimums = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1)
    return scales, minimums


def q3_k_factors(packed: Bytes) -> NDArray[np.int8]:
    """16 scales of 6 bits less 32 from 12 bytes: 8 of low nibbles, 4 of high bit pairs."""
    low, high = nibbles(packed[..., :8]), packed[..., None, 8:]
    pairs = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    return (low | pairs.reshape(low.shape) << np.uint8(4)).astype(np.int8) - np.int8(32)
