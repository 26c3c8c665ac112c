"""Byte layouts of sub-byte integers, stated once.

All layouts here are *little-endian bit streams*: code k of a row occupies bits `[bits*k, bits*(k+1))` of the row's
bytes, lowest bit first. That is at once OpenVINO's u2/u4/i4 constants (facts: the stream runs over the whole tensor, and
a row of whole bytes makes no difference) and ONNX Runtime's MatMulNBits blocks (operator specification of
com.microsoft.MatMulNBits). GPTQ's int32 words are the same stream over a whole column, four bytes a word, also at 3 bits,
where codes straddle words. AWQ's words hold eight columns in the order `AWQ_ORDER`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PACKED_BITS = (1, 2, 4, 8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble j of a word, lowest first, is column 8c + AWQ_ORDER[j] (AutoAWQ, GEMM)
_WORD_BITS = 32


def pack_rows(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes `[..., K]` below `2^bits` as bytes `[..., ceil(K * bits / 8)]`, lowest bits first; a last part byte is zero-filled.

    Raises ValueError for a width that does not divide a byte.
    """
    if bits not in PACKED_BITS:
        raise ValueError(f"{bits} bits do not divide a byte; one of {PACKED_BITS} is allowed")
    per_byte = 8 // bits
    if per_byte == 1:
        return codes
    short = -codes.shape[-1] % per_byte
    if short:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], short), np.uint8)], axis=-1)
    packed = codes[..., 0::per_byte].copy()
    for index in range(1, per_byte):
        packed |= codes[..., index::per_byte] << np.uint8(bits * index)
    return packed


def unpack_rows(packed: NDArray[np.uint8], bits: int, columns: int) -> NDArray[np.uint8]:
    """Undo `pack_rows`: bytes `[..., ceil(columns * bits / 8)]` as codes `[..., columns]`."""
    if bits not in PACKED_BITS:
        raise ValueError(f"{bits} bits do not divide a byte; one of {PACKED_BITS} is allowed")
    per_byte = 8 // bits
    if per_byte == 1:
        return packed
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * per_byte), np.uint8)
    mask = np.uint8((1 << bits) - 1)
    for index in range(per_byte):
        codes[..., index::per_byte] = (packed >> np.uint8(bits * index)) & mask
    return codes[..., :columns]


def signed_nibbles(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Symmetric codes `u` as the two's-complement nibble of `u - 2^(bits-1)` (OpenVINO i4); bits at most 4."""
    return (codes - np.uint8(1 << (bits - 1))) & np.uint8(0x0F)


def unsigned_nibbles(nibbles: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Undo `signed_nibbles`; a nibble outside the `bits`-bit range gives a code that `QTensor` refuses or a digest that differs."""
    return (nibbles + np.uint8(1 << (bits - 1))) & np.uint8(0x0F)


def pack_words(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Codes `[R, K]` as int32 words `[R, ceil(K * bits / 32)]`: one stream a row, so a code may straddle two words."""
    rows, columns = codes.shape
    stream = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little").reshape(rows, columns * bits)
    words = -(-columns * bits // _WORD_BITS)
    packed = np.zeros((rows, words * 4), np.uint8)
    filled = np.packbits(stream, axis=1, bitorder="little")
    packed[:, : filled.shape[1]] = filled
    return packed.view("<i4").astype(np.int32)


def unpack_words(words: NDArray[np.int32], bits: int, columns: int) -> NDArray[np.uint8]:
    """Undo `pack_words`: words `[R, ceil(columns * bits / 32)]` as codes `[R, columns]`."""
    rows = words.shape[0]
    stream = np.unpackbits(
        np.ascontiguousarray(words, "<i4").view(np.uint8), axis=1, count=columns * bits, bitorder="little"
    )
    return np.packbits(stream.reshape(rows, columns, bits), axis=2, bitorder="little")[:, :, 0]


def pack_awq(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """4-bit codes `[R, C]` as int32 words `[R, ceil(C / 8)]`, eight columns a word in the order `AWQ_ORDER`."""
    codes = _padded(codes, 8)
    return pack_words(codes.reshape(len(codes), -1, 8)[:, :, AWQ_ORDER].reshape(codes.shape), 4)


def unpack_awq(words: NDArray[np.int32], columns: int) -> NDArray[np.uint8]:
    """Undo `pack_awq`: words `[R, ceil(columns / 8)]` as 4-bit codes `[R, columns]`."""
    mixed = unpack_words(words, 4, words.shape[1] * 8).reshape(len(words), -1, 8)
    codes = np.empty_like(mixed)
    codes[:, :, AWQ_ORDER] = mixed
    return codes.reshape(len(words), -1)[:, :columns]


def _padded(codes: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    return np.pad(codes, ((0, 0), (0, -codes.shape[1] % multiple)))
