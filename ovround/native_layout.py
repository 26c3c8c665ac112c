"""How weights lie in memory for `QuantizedLinear`, the operator of runtime/native; all parts are bytes.

Additive codebooks, V inputs and O outputs a vector, M books:

    codes      [ceil(N / O / 64), K / V, M, 64 * b]   of each 64 rows of vectors; b is 1, or 2 where a book has over 256 entries
    codebooks  [M, entries, O, V, 2]                  float16
    scales     [N / O, 2]                             float16

3-bit integers, in groups of a multiple of 32 inputs, or one group a row:

    codes        [ceil(N / 16), ceil(K / 32), 192]    of 16 rows and 32 inputs; byte 4 * row + i of the first and second 64
                                                      holds the lower two bits of inputs i, 4 + i, 8 + i, 12 + i (and 16 on),
                                                      lowest first; of the third the upper bits of i, 4 + i, ... 28 + i
    scales       [ceil(N / 16), G, 16, 2]             float16
    zero_points  [ceil(N / 16), G, 16]

Rows and inputs that fill up a tile are zero. Bytes, because OpenVINO's plugins widen wider types when they compile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.codebooktensor import CodebookTensor
from ovround.qtensor import QTensor

Bytes = NDArray[np.uint8]
CODE_ROWS = 64
TILE_ROWS, RUN = 16, 32
MOST_BOOKS, MOST_ENTRIES, MOST_INPUTS = 64, 1 << 16, 1024


@dataclass(frozen=True, slots=True, eq=False)
class CodebookParts:
    """A `CodebookTensor` as the operator reads it."""

    codes: Bytes
    codebooks: Bytes
    scales: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class ThreeBitParts:
    """A 3-bit `QTensor` as the operator reads it."""

    codes: Bytes
    scales: Bytes
    zero_points: Bytes


def pack_codebook(weight: CodebookTensor) -> CodebookParts:
    """The weight's own codes, entries and scales, in tiles of rows."""
    wide = weight.codebooks.shape[1] > 256
    codes = _tiled(weight.codes.astype("<u2" if wide else np.uint8), CODE_ROWS)  # [tiles, 64, groups, books]
    ordered = np.ascontiguousarray(codes.transpose(0, 2, 3, 1))
    return CodebookParts(ordered.view(np.uint8), _as_bytes(weight.codebooks), _as_bytes(weight.scales))


def unpack_codebook(parts: CodebookParts) -> CodebookTensor:
    """Undo `pack_codebook`; raises ValueError for parts that contradict each other."""
    codebooks, scales = _as_halves(parts.codebooks), _as_halves(parts.scales)
    codes = parts.codes.view("<u2") if codebooks.shape[1] > 256 else parts.codes
    rows = np.ascontiguousarray(codes.transpose(0, 3, 1, 2)).reshape(-1, *codes.shape[1:3])
    return CodebookTensor(rows[: len(scales)].astype(np.uint16), codebooks, scales)


def fits_three_bits(weight: QTensor) -> bool:
    """Whether the operator can hold `weight`: 3 bits, columns as the inputs stand, groups of whole runs or rows."""
    return weight.bits == 3 and weight.order is None and group_fits(weight.group_size, weight.shape[1])


def group_fits(group_size: int, inputs: int) -> bool:
    """Whether groups are a multiple of 32 inputs, or whole rows."""
    return group_size in (-1, inputs) or group_size % RUN == 0


def pack_three_bits(weight: QTensor) -> ThreeBitParts:
    """Codes in 3 bits each, in tiles of 16 rows and 32 inputs; see `fits_three_bits`."""
    codes = np.pad(weight.codes, ((0, -weight.shape[0] % TILE_ROWS), (0, -weight.shape[1] % RUN)))
    # [tile, row, run, half, quad, input of the quad] -> [tile, run, half, row, input of the quad, quad]
    parts = codes.reshape(-1, TILE_ROWS, codes.shape[1] // RUN, 2, 4, 4).transpose(0, 2, 3, 1, 5, 4)
    low = np.zeros(parts.shape[:-1], np.uint8)
    high = np.zeros((*parts.shape[:2], TILE_ROWS, 4), np.uint8)
    for quad in range(4):
        low |= (parts[..., quad] & 3) << np.uint8(2 * quad)
        for half in range(2):
            high |= (parts[:, :, half, :, :, quad] >> 2) << np.uint8(4 * half + quad)
    packed = np.concatenate([low.reshape(*low.shape[:2], -1), high.reshape(*high.shape[:2], -1)], axis=2)
    scales = np.ascontiguousarray(_tiled(weight.scales, TILE_ROWS).transpose(0, 2, 1))
    zeros = np.ascontiguousarray(_tiled(weight.zeros(), TILE_ROWS).transpose(0, 2, 1))
    return ThreeBitParts(packed, _as_bytes(scales), zeros)


def unpack_three_bits(parts: ThreeBitParts, rows: int, columns: int, *, symmetric: bool) -> QTensor:
    """Undo `pack_three_bits` of a weight `[rows, columns]`; raises ValueError for parts that contradict each other or it."""
    tiles, runs = parts.codes.shape[:2]
    low = parts.codes[:, :, :128].reshape(tiles, runs, 2, TILE_ROWS, 4)
    high = parts.codes[:, :, 128:].reshape(tiles, runs, TILE_ROWS, 4)
    codes = np.empty((tiles, TILE_ROWS, runs, 2, 4, 4), np.uint8)
    for half in range(2):
        for quad in range(4):
            upper = ((high >> np.uint8(4 * half + quad)) & 1) << 2
            codes[:, :, :, half, quad] = (((low[:, :, half] >> np.uint8(2 * quad)) & 3) | upper).transpose(0, 2, 1, 3)
    scales = _as_halves(parts.scales).transpose(0, 2, 1).reshape(tiles * TILE_ROWS, -1)[:rows]
    zeros = parts.zero_points.transpose(0, 2, 1).reshape(tiles * TILE_ROWS, -1)[:rows]
    if symmetric and (zeros != 4).any():
        raise ValueError(f"symmetric, yet with zero points {zeros.reshape(-1)[:4]}")
    kept = np.ascontiguousarray(codes.reshape(tiles * TILE_ROWS, runs * RUN)[:rows, :columns])
    return QTensor(kept, np.ascontiguousarray(scales), None if symmetric else np.ascontiguousarray(zeros), 3)


def three_bit_bytes(rows: int, columns: int, groups: int) -> tuple[int, int, int]:
    """Bytes of codes, scales and zero points of a weight `[rows, columns]` in `groups` groups a row."""
    tiles = -(-rows // TILE_ROWS)
    return tiles * -(-columns // RUN) * 192, tiles * groups * TILE_ROWS * 2, tiles * groups * TILE_ROWS


def codebook_bytes(shape: tuple[int, int], books: int, entries: int, vector: tuple[int, int]) -> tuple[int, int, int]:
    """Bytes of codes, codebooks and scales of a weight `[N, K]` of vectors of (outputs, inputs)."""
    rows, groups = shape[0] // vector[0], shape[1] // vector[1]
    width = 2 if entries > 256 else 1
    return -(-rows // CODE_ROWS) * CODE_ROWS * groups * books * width, books * entries * vector[0] * vector[1] * 2, 2 * rows


def _tiled(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """`[N, ...]` as `[ceil(N / rows), rows, ...]`."""
    padded = np.pad(values, ((0, -len(values) % rows), *((0, 0) for _ in values.shape[1:])))
    return padded.reshape(-1, rows, *values.shape[1:])


def _as_bytes(halves: NDArray[np.float16]) -> Bytes:
    return np.ascontiguousarray(halves, "<f2").view(np.uint8).reshape(*halves.shape, 2)


def _as_halves(parts: Bytes) -> NDArray[np.float16]:
    return np.ascontiguousarray(parts).view("<f2")[..., 0].astype(np.float16)
