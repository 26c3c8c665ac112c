"""How weights lie in memory for `QuantizedLinear`, the operator of runtime/native; every part is bytes.

Additive codebooks, V inputs and O outputs a vector, M books:

    codes      [ceil(N / O / 64), K / V, M, 64 * b]   of each 64 rows of vectors; b is 1, or 2 where a book has over 256 entries
    codebooks  [M, entries, O, V, 2]                  float16
    scales     [N / O, 2]                             float16

Integers of 2, 3, 4 and 8 bits, in groups of a multiple of 32 inputs, or one group a row:

    codes        [ceil(N / 16), ceil(K / 32), bits * 64]  of 16 rows and 32 inputs
    scales       [ceil(N / 16), G, 16, 2]                 float16
    zero_points  [ceil(N / 16), G, 16], or [1]            one for all

Affine integers of 2 to 6 bits (`AffineTensor`), in groups of 16 inputs or of a multiple of 32, and B blocks a row:

    codes     as above
    scales    [ceil(N / 16), B, 32 + 16 * G / B]  of a block 16 float16, then an int8 factor of each group and row; 32 where B is G
    minimums  as scales, or zero point [1]

Byte 4 * row + i of each 64 holds, lowest bits first: of 8 bits input 4 * j + i of the j-th 64; of 4 bits inputs 8 * j + i and
8 * j + 4 + i; of 2 bits inputs 16 * j + i, and 4, 8, 12 further. Of 3 bits the lower two lie as those of 2 bits do, and of the
third 64 byte 4 * row + i holds the upper bits of inputs i, 4 + i, ... 28 + i. Of 5 and 6 bits the lower four lie as those of
4 bits do, and the fifth as a third bit does, or the upper two as those of 2 bits do. Four products of a row and their sum are then
one lane of a processor's dot product.

Rows and inputs that fill up a tile are zero. All parts are bytes, because OpenVINO's CPU plugin widens float16 and 16-bit
integers when it compiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.group_values import GroupValues

OPERATOR, OPSET = "QuantizedLinear", "ovround"
CODEBOOK = "codebook"  # the operator's attribute `weights`
INTEGERS = {2: "int2", 3: "int3", 4: "int4", 8: "int8"}  # and of integers, by their bits
AFFINE = {2: "affine2", 3: "affine3", 4: "affine4", 5: "affine5", 6: "affine6"}
_PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}  # bits that are stored together, lowest first
Bytes = NDArray[np.uint8]
CODE_ROWS = 64
TILE_ROWS, RUN = 16, 32
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
    """Whether groups of integers are a multiple of 32 inputs, or whole rows."""
    return group_size in (-1, inputs) or group_size % RUN == 0


def pack_integers(codes: NDArray[np.uint8], bits: int) -> Bytes:
    """Codes `[N, K]` of `bits` bits in as many bits each."""
    padded = np.pad(codes, ((0, -codes.shape[0] % TILE_ROWS), (0, -codes.shape[1] % RUN)))
    # [tile, row, run, quad, input of the quad] -> [tile, run, quad, row, input of the quad]
    quads = padded.reshape(-1, TILE_ROWS, padded.shape[1] // RUN, 8, 4).transpose(0, 2, 3, 1, 4)
    parts, shift = [], 0
    for plane in _PLANES[bits]:
        part = quads >> np.uint8(shift) & np.uint8((1 << plane) - 1)
        parts.append(_merge_bits(part, plane).reshape(*quads.shape[:2], -1))
        shift += plane
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def unpack_integers(packed: Bytes, bits: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Undo `pack_integers` of codes `[rows, columns]`."""
    tiles, runs = packed.shape[:2]
    quads, start, shift = np.zeros((tiles, runs, 8, TILE_ROWS, 4), np.uint8), 0, 0
    for plane in _PLANES[bits]:
        quads |= _split_bits(packed[:, :, start : start + plane * 64], plane) << np.uint8(shift)
        start, shift = start + plane * 64, shift + plane
    codes = quads.transpose(0, 3, 1, 2, 4).reshape(tiles * TILE_ROWS, runs * RUN)
    return np.ascontiguousarray(codes[:rows, :columns])


def _merge_bits(quads: NDArray[np.uint8], bits: int) -> Bytes:
    """Quads `[tile, run, 8, 16, 4]`, as many of those that follow each other in a byte as it holds."""
    count = 8 // bits
    parts = quads.reshape(*quads.shape[:2], 8 // count, count, TILE_ROWS, 4)
    packed = np.zeros((*parts.shape[:3], TILE_ROWS, 4), np.uint8)
    for index in range(count):
        packed |= parts[:, :, :, index] << np.uint8(bits * index)
    return packed


def _split_bits(packed: Bytes, bits: int) -> NDArray[np.uint8]:
    """Undo `_merge_bits`."""
    count, (tiles, runs) = 8 // bits, packed.shape[:2]
    grouped = packed.reshape(tiles, runs, 8 // count, 1, TILE_ROWS, 4)
    shifts = (np.arange(count, dtype=np.uint8) * np.uint8(bits)).reshape(1, 1, 1, count, 1, 1)
    return ((grouped >> shifts) & np.uint8((1 << bits) - 1)).reshape(tiles, runs, 8, TILE_ROWS, 4)


def pack_qparams(values: NDArray[Any]) -> NDArray[Any]:
    """Scales or zero points `[N, G]` as `[ceil(N / 16), G, 16]`."""
    return np.ascontiguousarray(_tiled(values, TILE_ROWS).transpose(0, 2, 1))


def unpack_qparams(packed: NDArray[Any], rows: int) -> NDArray[Any]:
    """Undo `pack_qparams`."""
    return np.ascontiguousarray(packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])[:rows])


def pack_group_values(values: GroupValues) -> Bytes:
    """Scales or minimums of an affine weight as `[ceil(N / 16), B, bytes of a block]`."""
    halves = halves_as_bytes(pack_qparams(values.blocks)).reshape(-1, values.blocks_a_row, 2 * TILE_ROWS)
    if values.factors is None:
        return halves
    factors = pack_qparams(values.factors).view(np.uint8).reshape(len(halves), values.blocks_a_row, -1)
    return np.concatenate([halves, factors], axis=2)


def unpack_group_values(packed: Bytes, rows: int) -> GroupValues:
    """Undo `pack_group_values` of `rows` rows."""
    tiles, blocks, size = packed.shape
    halves = np.ascontiguousarray(packed[:, :, : 2 * TILE_ROWS]).reshape(tiles, blocks, TILE_ROWS, 2)
    numbers = unpack_qparams(bytes_as_halves(halves), rows)
    if size == 2 * TILE_ROWS:
        return GroupValues(numbers)
    factors = np.ascontiguousarray(packed[:, :, 2 * TILE_ROWS :]).view(np.int8).reshape(tiles, -1, TILE_ROWS)
    return GroupValues(numbers, unpack_qparams(factors, rows))


def unpack_affine(parts: Sequence[Bytes], bits: int, shape: tuple[int, int]) -> AffineTensor:
    """The affine weight `[N, K]` of the operator's three parts; the last is its minimums, or its zero point `[1]`.

    Raises ValueError and IndexError for parts that do not fit.
    """
    codes, scales, last = parts
    minimums = None if last.size == 1 else unpack_group_values(last, shape[0])
    zero_point = int(last[0]) if last.size == 1 else 0
    levels = unpack_integers(codes, bits, *shape)
    return AffineTensor(levels, unpack_group_values(scales, shape[0]), minimums, bits, zero_point)


def expand_affine(parts: Sequence[Bytes], bits: int, shape: tuple[int, int]) -> NDArray[np.float16]:
    """The same, each value rounded to float16."""
    codes, scales, last = parts
    rows, columns = shape
    if len(codes) != -(-rows // TILE_ROWS) or len(scales) != len(codes):
        raise ValueError(f"{len(codes)} and {len(scales)} tiles are not those of {rows} rows")
    weight = np.empty(shape, np.float16)
    for first in range(0, len(codes), CODE_ROWS):  # float32 of some tiles at a time
        tiles, start = slice(first, first + CODE_ROWS), first * TILE_ROWS
        stop = min(start + CODE_ROWS * TILE_ROWS, rows)
        some = codes[tiles], scales[tiles], last if last.size == 1 else last[tiles]
        weight[start:stop] = unpack_affine(some, bits, (stop - start, columns)).dequantize()
    return weight


def halves_as_bytes(halves: NDArray[np.float16]) -> Bytes:
    """`[...]` as `[..., 2]`."""
    return np.ascontiguousarray(halves, "<f2").view(np.uint8).reshape(*halves.shape, 2)


def bytes_as_halves(parts: Bytes) -> NDArray[np.float16]:
    """Undo `halves_as_bytes`."""
    return np.ascontiguousarray(parts).view("<f2")[..., 0].astype(np.float16)


def integer_bytes(bits: int, rows: int, columns: int, groups: int) -> tuple[int, int, int]:
    """Bytes of codes, scales and zero points of a weight `[rows, columns]` of `bits` bits in `groups` groups a row."""
    tiles = -(-rows // TILE_ROWS)
    return tiles * -(-columns // RUN) * bits * 64, 2 * tiles * groups * TILE_ROWS, tiles * groups * TILE_ROWS


def _tiled(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """`[N, ...]` as `[ceil(N / rows), rows, ...]`."""
    padded = np.pad(values, ((0, -len(values) % rows), *((0, 0) for _ in values.shape[1:])))
    return padded.reshape(-1, rows, *values.shape[1:])
