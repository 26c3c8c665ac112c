"""How weights lie in memory for `QuantizedLinear`, the operator of runtime/native; every part is bytes.

Additive codebooks, V inputs and O outputs a vector, M books:

    codes      [ceil(N / O / 64), K / V, M, 64 * b]   of each 64 rows of vectors; b is 1, or 2 where a book has over 256 entries
    codebooks  [M, entries, O, V, 2]                  float16
    scales     [N / O, 2]                             float16

3-bit integers, in groups of a multiple of 32 inputs, or one group a row:

    codes        [ceil(N / 16), ceil(K / 32), 192]    of 16 rows and 32 inputs; byte 4 * row + i of the first and second 64
                                                      holds the lower two bits of inputs i, 4 + i, 8 + i, 12 + i (and 16 on),
                                                      lowest first; of the third 64 the upper bits of i, 4 + i, ... 28 + i
    scales       [ceil(N / 16), G, 16, 2]             float16
    zero_points  [ceil(N / 16), G, 16]

Rows and inputs that fill up a tile are zero. Bytes, because OpenVINO's CPU plugin widens float16 and 16-bit integers when it
compiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

OPERATOR, OPSET = "QuantizedLinear", "ovround"
CODEBOOK, THREE_BITS = "codebook", "int3"  # the operator's attribute `weights`
Bytes = NDArray[np.uint8]
CODE_ROWS = 64
TILE_ROWS, RUN = 16, 32
_RUN_BYTES = 3 * TILE_ROWS * RUN // 8
MOST_BOOKS, MOST_ENTRIES, MOST_INPUTS = 64, 1 << 16, 1024


def pack_codes(codes: NDArray[np.uint16], entries: int) -> Bytes:
    """Codes `[N / O, K / V, M]` in tiles of 64 rows."""
    tiles = _tiled(codes.astype("<u2" if entries > 256 else np.uint8), CODE_ROWS)
    return np.ascontiguousarray(tiles.transpose(0, 2, 3, 1)).view(np.uint8)


def unpack_codes(packed: Bytes, entries: int, rows: int) -> NDArray[np.uint16]:
    """Undo `pack_codes`; `rows` is N / O."""
    codes = packed.view("<u2") if entries > 256 else packed
    return np.ascontiguousarray(codes.transpose(0, 3, 1, 2)).reshape(-1, *codes.shape[1:3])[:rows].astype(np.uint16)


def expand_codebook(codes: Bytes, codebooks: Bytes, scales: Bytes) -> NDArray[np.float16]:
    """The weight `[N, K]`, each value summed and scaled in float32 and rounded to float16.

    Raises ValueError for a code beyond its book.
    """
    entries, factors = bytes_as_halves(codebooks), bytes_as_halves(scales)
    books, count, outputs, inputs = entries.shape
    weight = np.empty((len(factors) * outputs, codes.shape[1] * inputs), np.float16)
    for tile in range(len(codes)):  # float32 of 64 rows at a time
        rows = slice(tile * CODE_ROWS, min((tile + 1) * CODE_ROWS, len(factors)))
        chosen = unpack_codes(codes[tile : tile + 1], count, rows.stop - rows.start)
        if int(chosen.max(initial=0)) >= count:
            raise ValueError(f"code {chosen.max()} is beyond a codebook of {count} entries")
        vectors = np.zeros((*chosen.shape[:2], outputs, inputs), np.float32)
        for book in range(books):
            vectors += entries[book].astype(np.float32)[chosen[:, :, book]]
        vectors *= factors[rows].astype(np.float32)[:, None, None, None]
        weight[rows.start * outputs : rows.stop * outputs] = vectors.transpose(0, 2, 1, 3).reshape(-1, weight.shape[1])
    return weight


def group_fits(group_size: int, inputs: int) -> bool:
    """Whether 3-bit groups are a multiple of 32 inputs, or whole rows."""
    return group_size in (-1, inputs) or group_size % RUN == 0


def pack_three_bits(codes: NDArray[np.uint8]) -> Bytes:
    """Codes `[N, K]` below 8 in 3 bits each."""
    padded = np.pad(codes, ((0, -codes.shape[0] % TILE_ROWS), (0, -codes.shape[1] % RUN)))
    # [tile, row, run, half, quad, input of the quad] -> [tile, run, half, row, input of the quad, quad]
    parts = padded.reshape(-1, TILE_ROWS, padded.shape[1] // RUN, 2, 4, 4).transpose(0, 2, 3, 1, 5, 4)
    low = np.zeros(parts.shape[:-1], np.uint8)
    high = np.zeros((*parts.shape[:2], TILE_ROWS, 4), np.uint8)
    for quad in range(4):
        low |= (parts[..., quad] & 3) << np.uint8(2 * quad)
        for half in range(2):
            high |= (parts[:, :, half, :, :, quad] >> 2) << np.uint8(4 * half + quad)
    return np.concatenate([low.reshape(*low.shape[:2], -1), high.reshape(*high.shape[:2], -1)], axis=2)


def unpack_three_bits(packed: Bytes, rows: int, columns: int) -> NDArray[np.uint8]:
    """Undo `pack_three_bits` of codes `[rows, columns]`."""
    tiles, runs = packed.shape[:2]
    low = packed[:, :, :128].reshape(tiles, runs, 2, TILE_ROWS, 4)
    high = packed[:, :, 128:].reshape(tiles, runs, TILE_ROWS, 4)
    codes = np.empty((tiles, TILE_ROWS, runs, 2, 4, 4), np.uint8)
    for half in range(2):
        for quad in range(4):
            upper = ((high >> np.uint8(4 * half + quad)) & 1) << 2
            codes[:, :, :, half, quad] = (((low[:, :, half] >> np.uint8(2 * quad)) & 3) | upper).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(codes.reshape(tiles * TILE_ROWS, runs * RUN)[:rows, :columns])


def pack_grid(values: NDArray[Any]) -> NDArray[Any]:
    """Scales or zero points `[N, G]` as `[ceil(N / 16), G, 16]`."""
    return np.ascontiguousarray(_tiled(values, TILE_ROWS).transpose(0, 2, 1))


def unpack_grid(packed: NDArray[Any], rows: int) -> NDArray[Any]:
    """Undo `pack_grid`."""
    return np.ascontiguousarray(packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])[:rows])


def halves_as_bytes(halves: NDArray[np.float16]) -> Bytes:
    """`[...]` as `[..., 2]`."""
    return np.ascontiguousarray(halves, "<f2").view(np.uint8).reshape(*halves.shape, 2)


def bytes_as_halves(parts: Bytes) -> NDArray[np.float16]:
    """Undo `halves_as_bytes`."""
    return np.ascontiguousarray(parts).view("<f2")[..., 0].astype(np.float16)


def three_bit_bytes(rows: int, columns: int, groups: int) -> tuple[int, int, int]:
    """Bytes of codes, scales and zero points of a 3-bit weight `[rows, columns]` in `groups` groups a row."""
    tiles = -(-rows // TILE_ROWS)
    return tiles * -(-columns // RUN) * _RUN_BYTES, 2 * tiles * groups * TILE_ROWS, tiles * groups * TILE_ROWS


def _tiled(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """`[N, ...]` as `[ceil(N / rows), rows, ...]`."""
    padded = np.pad(values, ((0, -len(values) % rows), *((0, 0) for _ in values.shape[1:])))
    return padded.reshape(-1, rows, *values.shape[1:])
