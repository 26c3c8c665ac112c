"""Byte layouts of sub-byte integers, stated once.

All layouts here are *little-endian bit streams*: code k of a row occupies bits `[bits*k, bits*(k+1))` of the row's
bytes, lowest bit first. That is at once OpenVINO's u2/u4/i4 constants (facts: the stream runs over the whole tensor, and
a row of whole bytes makes no difference) and ONNX Runtime's MatMulNBits blocks (operator specification of
com.microsoft.MatMulNBits).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PACKED_BITS = (1, 2, 4, 8)


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
