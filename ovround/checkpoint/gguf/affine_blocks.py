"""GGUF's block types with a scale, and perhaps a minimum, a group as an `AffineTensor`: every number of the file is kept.

`llama.cpp/ggml/src/ggml-common.h` defines the blocks; those of K types have 256 weights, the others 32. A test compares each
type with the `gguf` package's own de-quantisation, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.gguf.bits import float16_at, nibbles, q3_k_factors, six_bits
from ovround.checkpoint.gguf.types import Bytes
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.group_values import GroupValues


def affine_tensor(rows: Bytes, kind: str) -> AffineTensor:
    """The weight `[N, K]` of the block bytes `[N, bytes of a row]` of type `kind`, one of `AFFINE_KINDS`.

    Raises ValueError for a scale or minimum that is not finite.
    """
    size, decode = _DECODERS[kind]
    tensor = decode(rows.reshape(len(rows), -1, size))
    for values in (tensor.scales, tensor.minimums):
        if values is not None and not np.isfinite(values.blocks).all():
            raise ValueError("a scale or minimum is no finite number")
    return tensor


def _q4_1(blocks: Bytes) -> AffineTensor:
    """d, m, 16 bytes of nibbles."""
    return AffineTensor(_row(nibbles(blocks[..., 4:])), _halves(blocks, 0), _minus(_halves(blocks, 2)), 4)


def _q5_0(blocks: Bytes) -> AffineTensor:
    """d, 32 upper bits, 16 bytes of nibbles."""
    return AffineTensor(_five_bits(blocks[..., 2:6], blocks[..., 6:]), _halves(blocks, 0), None, 5, 16)


def _q5_1(blocks: Bytes) -> AffineTensor:
    """d, m, 32 upper bits, 16 bytes of nibbles."""
    codes = _five_bits(blocks[..., 4:8], blocks[..., 8:])
    return AffineTensor(codes, _halves(blocks, 0), _minus(_halves(blocks, 2)), 5)


def _q2_k(blocks: Bytes) -> AffineTensor:
    """16 bytes of scale and minimum nibbles, twice 32 bytes of four bit pairs each, d, e."""
    codes = _bit_pairs(blocks[..., 16:80])
    scales, minimums = blocks[..., :16] & 15, blocks[..., :16] >> 4
    return AffineTensor(_row(codes), _halves(blocks, 80, scales), _halves(blocks, 82, minimums), 2)


def _q3_k(blocks: Bytes) -> AffineTensor:
    """32 bytes of third bits, which are set where nothing is subtracted, 64 of bit pairs, 12 of 6-bit scales, d."""
    third = blocks[..., None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes = _bit_pairs(blocks[..., 32:96]) | third.reshape(*blocks.shape[:2], 2, 4, 32) << np.uint8(2)
    return AffineTensor(_row(codes), _halves(blocks, 108, q3_k_factors(blocks[..., 96:108])), None, 3, 4)


def _q4_k(blocks: Bytes) -> AffineTensor:
    """d, e, 12 bytes of 6-bit scales and minimums, four times 32 bytes of nibbles, low ones first."""
    scales, minimums = six_bits(blocks[..., 4:16])
    codes = _row(nibbles(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)))
    return AffineTensor(codes, _halves(blocks, 0, scales), _halves(blocks, 2, minimums), 4)


def _q5_k(blocks: Bytes) -> AffineTensor:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte i belongs to weight i of the j-th 32."""
    scales, minimums = six_bits(blocks[..., 4:16])
    low = nibbles(blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)).reshape(*blocks.shape[:2], 8, 32)
    fifth = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes = _row(low | fifth << np.uint8(4))
    return AffineTensor(codes, _halves(blocks, 0, scales), _halves(blocks, 2, minimums), 5)


def _q6_k(blocks: Bytes) -> AffineTensor:
    """128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, d; each half in four runs of 32."""
    halves = blocks.shape[:2]
    low = nibbles(blocks[..., :128].reshape(*halves, 2, 64)).reshape(*halves, 2, 4, 32)
    codes = _row(low | _bit_pairs(blocks[..., 128:192]) << np.uint8(4))
    factors = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return AffineTensor(codes, _halves(blocks, 208, factors), None, 6, 32)


def _row(codes: Bytes) -> Bytes:
    return np.ascontiguousarray(codes.reshape(len(codes), -1))


def _halves(blocks: Bytes, start: int, factors: NDArray[np.integer] | None = None) -> GroupValues:
    """The float16 number at byte `start` of each block, and the factors of its groups."""
    return GroupValues(
        float16_at(blocks, start), None if factors is None else factors.reshape(len(factors), -1).astype(np.int8)
    )


def _minus(values: GroupValues) -> GroupValues:
    return GroupValues(-values.blocks)


def _bit_pairs(packed: Bytes) -> Bytes:
    """`[N, blocks, 64]` bytes as `[N, blocks, 2, 4, 32]`: the four pairs of 32 bytes one after another, lowest first."""
    halves = packed.reshape(*packed.shape[:2], 2, 1, 32)
    return halves >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)


def _five_bits(upper: Bytes, lower: Bytes) -> Bytes:
    bits = np.unpackbits(np.ascontiguousarray(upper), axis=-1, bitorder="little")
    return _row(nibbles(lower) | bits << np.uint8(4))


_DECODERS: dict[str, tuple[int, Callable[[Bytes], AffineTensor]]] = {
    "Q4_1": (20, _q4_1), "Q5_0": (22, _q5_0), "Q5_1": (24, _q5_1), "Q2_K": (84, _q2_k), "Q3_K": (110, _q3_k),
    "Q4_K": (144, _q4_k), "Q5_K": (176, _q5_k), "Q6_K": (210, _q6_k),
}  # fmt: skip
AFFINE_KINDS = tuple(_DECODERS)
