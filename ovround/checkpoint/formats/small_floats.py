"""Numbers of 4 and 8 bits: what each bit pattern stands for, as float32.

| type | sign, exponent, mantissa | remarks |
|---|---|---|
| e2m1 (FP4) | 1, 2, 1 | 0 0.5 1 1.5 2 3 4 6 and their negatives; two a byte, the low nibble first |
| e4m3 (FP8) | 1, 4, 3 | bias 7, no infinity, NaN where all bits but the sign are set |
| e5m2 (FP8) | 1, 5, 2 | bias 15: the upper byte of a float16 |
| e8m0 | 0, 8, 0 | powers of two, less 127: scales of the OCP microscaling formats |

Source: OCP 8-bit floating point and microscaling specifications, as torch and safetensors name them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BYTES = np.arange(256, dtype=np.uint8)
_FP4: NDArray[np.float32] = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _e4m3() -> NDArray[np.float32]:
    bits = _BYTES.astype(np.int32)
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    size = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), np.ldexp(1 + mantissa / 8, exponent - 7))
    size = np.where(bits & 127 == 127, np.nan, size)
    values: NDArray[np.float32] = np.where(bits & 128, -size, size).astype(np.float32)
    return values


TABLES: dict[str, NDArray[np.float32]] = {
    "F8_E4M3": _e4m3(),
    "F8_E5M2": (_BYTES.astype(np.uint16) << 8).view(np.float16).astype(np.float32),
}


def decode_fp8(codes: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """The numbers of bytes of a type of `TABLES`, in their shape."""
    values: NDArray[np.float32] = TABLES[dtype][codes]
    return values


def decode_fp4(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The numbers of bytes `[..., K / 2]`, `[..., K]`."""
    nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)
    values: NDArray[np.float32] = _FP4[nibbles]
    return values


def decode_e8m0(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Powers of two; 255, which stands for NaN, becomes infinity."""
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = np.ldexp(np.float32(1), codes.astype(np.int32) - 127)
    return values
