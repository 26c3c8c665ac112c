"""The tensor types of GGUF: their blocks, and their values as float32, by the package `gguf`.

Types that the package does not de-quantise are computed here, as ggml's `dequantize_row_*` does: Q1_0 and Q2_0, which are newer,
and Q8_1 and Q8_K, in which llama.cpp keeps activations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.errors import MissingExtraError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
PLAIN: dict[str, type[np.generic]] = {
    "F32": np.float32, "F16": np.float16, "F64": np.float64,
    "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
}  # fmt: skip
_AT_ONCE = 1 << 17  # weights whose temporaries stay in a processor's cache
_BITS, _PAIRS = np.arange(8, dtype=np.uint8), np.arange(0, 8, 2, dtype=np.uint8)


def _half(blocks: Bytes) -> Floats:
    return np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)


def _q1_0(blocks: Bytes) -> Floats:
    """One bit a weight, the lowest first: the scale, or its opposite."""
    bits = (blocks[..., 2:, None] >> _BITS & 1).reshape(*blocks.shape[:-1], 128)
    return np.where(bits, _half(blocks), -_half(blocks))


def _q2_0(blocks: Bytes) -> Floats:
    """Two bits a weight, the lowest first, less 1."""
    pairs = (blocks[..., 2:, None] >> _PAIRS & 3).reshape(*blocks.shape[:-1], 64)
    return (pairs.astype(np.float32) - 1) * _half(blocks)


def _q8_1(blocks: Bytes) -> Floats:
    return _half(blocks) * np.ascontiguousarray(blocks[..., 4:36]).view(np.int8)


def _q8_k(blocks: Bytes) -> Floats:
    scales = np.ascontiguousarray(blocks[..., :4]).view(np.float32)
    return scales * np.ascontiguousarray(blocks[..., 4:260]).view(np.int8)


# number, weights and bytes of a block; for Q8_1 the package has sizes of an older layout, of two float32
_OWN: dict[str, tuple[int, int, int, Callable[[Bytes], Floats]]] = {
    "Q1_0": (41, 128, 18, _q1_0), "Q2_0": (42, 64, 18, _q2_0), "Q8_1": (9, 32, 36, _q8_1), "Q8_K": (15, 256, 292, _q8_k),
}  # fmt: skip


@functools.cache
def _package() -> Any:
    try:
        import gguf
        import gguf.quants
    except ModuleNotFoundError as error:
        raise MissingExtraError("gguf", "convert") from error
    return gguf


@functools.cache
def _numbers() -> dict[int, str]:
    numbers = {int(kind): str(kind.name) for kind in _package().GGMLQuantizationType}
    return numbers | {number: name for name, (number, *_) in _OWN.items()}


def type_name(number: int) -> str | None:
    """The name of a type, None for one that neither the package nor this file knows."""
    return _numbers().get(number)


def type_names() -> list[str]:
    """All types that are known."""
    return list(_numbers().values())


@functools.cache
def block_of(kind: str) -> tuple[int, int]:
    """Weights and bytes of a block of the type."""
    if kind in _OWN:
        return _OWN[kind][1:3]
    package = _package()
    weights, size = package.GGML_QUANT_SIZES[package.GGMLQuantizationType[kind]]
    return int(weights), int(size)


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of a row of so many weights."""
    block, size = block_of(kind)
    return columns // block * size


def dequantize(rows: Bytes, kind: str) -> Floats:
    """Bytes `[..., row_bytes]` as float32 `[..., K]`; F64, I32 and I64 are rounded to nearest.

    Infinity and NaN stay what they are.
    """
    rows = np.ascontiguousarray(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        if kind in PLAIN:
            return rows.view(PLAIN[kind]).astype(np.float32)
        if kind in _OWN:
            _, _, size, values_of = _OWN[kind]
            return values_of(rows.reshape(*rows.shape[:-1], -1, size)).reshape(*rows.shape[:-1], -1)
        weights, size = block_of(kind)
        shape = (*rows.shape[:-1], rows.shape[-1] // size * weights)
        return _dequantized(rows.reshape(-1, size), kind).reshape(shape)


def _dequantized(blocks: Bytes, kind: str) -> Floats:
    """Values of blocks by the package, which would take 16 rows at a time, whatever their width."""
    package = _package()
    values = np.empty((len(blocks), block_of(kind)[0]), np.float32)
    step = _AT_ONCE // values.shape[1]
    for start in range(0, len(blocks), step):
        part = values[start : start + step]
        row = blocks[start : start + step].reshape(1, -1)
        part[:] = package.quants.dequantize(row, package.GGMLQuantizationType[kind]).reshape(part.shape)
    return values
