"""GGUF's block types on the grids that engines compute with: whose integers are kept, and what the others become.

| type | grid | what is lost |
|---|---|---|
| Q4_0, Q8_0 | 4 and 8 bits, groups of 32 | nothing |
| Q5_0, IQ4_NL, MXFP4 | 8 bits, groups of 32 | nothing: their levels are multiples of the scale, up to 127 |
| Q1_0, Q2_0, TQ1_0, TQ2_0 | 2 bits, groups of 128, 64 and 256 | nothing |
| Q3_K | 4 bits, groups of 16 | scales are products, rounded to float16 |
| Q6_K, IQ4_XS, NVFP4, Q8_K, Q8_1 | 8 bits, the type's groups | the same |
| IQ1, IQ2, IQ3 | 8 bits, groups of 16 or 32 | the same: their levels are multiples of the scale, up to 62 |
| Q4_1, Q4_K, Q2_K, Q5_1, Q5_K | their own bits where each minimum is a whole number of steps | scales, where they are products |
| the same otherwise | 8 bits with zero points, groups of 32 or 16 | 0.06 to 0.3 % of the weights' size |

The last row is no 4-bit grid with a rounded zero point, although its bits would do: the minimum of a group moves by up to half
a step, which is as much again as the type's own error, and all weights of the group in the same direction. In 8 bits a step of
the type may be several steps of ours (17 for 4 bits, 8 for 5): of these numbers each group takes the one whose zero point lies
nearest to its minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.gguf.bits import float16_at, q3_k_factors, six_bits
from ovround.checkpoint.gguf.types import Bytes, Floats, block_of
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

_MOST_STEPS = 17  # of a grid within one step of the type: what 4 bits leave in 8
_NO_SCALE = 1e-30  # far below float16's smallest: the weights become 0


@dataclass(frozen=True, slots=True)
class SymmetricType:
    """A type whose values are integers times a scale a group.

    `scales` finds the scales in the blocks. Without it they are seen from the values: the largest magnitude of a group is one
    of `levels` times the scale. `products` says that a scale may be no float16 number.
    """

    bits: int
    group_size: int
    scales: Callable[[Bytes], Floats] | None = None
    levels: tuple[int, ...] = ()
    products: bool = True

    @property
    def scheme(self) -> QuantScheme:
        return QuantScheme(self.bits, self.group_size, True)


@dataclass(frozen=True, slots=True)
class MinimumType:
    """A type whose values are `scale * code - minimum`; `parts` gives scales and minima `[N, G]` of rows of blocks."""

    bits: int
    group_size: int
    parts: Callable[[Bytes], tuple[Floats, Floats]]

    @property
    def scheme(self) -> QuantScheme:
        """Where minima are no whole steps."""
        return QuantScheme(8, self.group_size, False)


def _blocks(rows: Bytes, kind: str) -> Bytes:
    return rows.reshape(len(rows), -1, block_of(kind)[1])


def _halves(blocks: Bytes, start: int) -> Floats:
    """The float16 number at byte `start` of each block."""
    with np.errstate(invalid="ignore"):  # a signalling NaN, which the reader refuses
        return float16_at(blocks, start).astype(np.float32)


def _one(kind: str, at: int) -> Callable[[Bytes], Floats]:
    """One float16 scale a block, at byte `at`."""
    return lambda rows: _halves(_blocks(rows, kind), at)


def _opposite(kind: str, at: int) -> Callable[[Bytes], Floats]:
    """The same with its sign turned: levels from -1 to 2 are then those of two signed bits."""
    return lambda rows: -_halves(_blocks(rows, kind), at)


def _q6_k(rows: Bytes) -> Floats:
    blocks = _blocks(rows, "Q6_K")
    factors = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float32)
    return (factors * _halves(blocks, 208)[..., None]).reshape(len(rows), -1)


def _q3_k(rows: Bytes) -> Floats:
    blocks = _blocks(rows, "Q3_K")
    scales: Floats = q3_k_factors(blocks[..., 96:108]).astype(np.float32) * _halves(blocks, 108)[..., None]
    return scales.reshape(len(rows), -1)


def _iq4_xs(rows: Bytes) -> Floats:
    """8 scales of 6 bits: a uint16 of high bit pairs, 4 bytes of nibbles, less 32."""
    blocks = _blocks(rows, "IQ4_XS")
    high = np.ascontiguousarray(blocks[..., 2:4]).view(np.uint16)
    pairs = (high >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    low = blocks[..., 4:8]
    nibbles = np.stack([low & 15, low >> 4], axis=-1).reshape(*low.shape[:-1], 8)
    factors: Floats = (nibbles | pairs << 4).astype(np.float32) - np.float32(32)
    scales: Floats = factors * _halves(blocks, 0)[..., None]
    return scales.reshape(len(rows), -1)


def _mxfp4(rows: Bytes) -> Floats:
    """Powers of two, halved: the levels are then whole numbers."""
    return np.ldexp(np.float32(1), _blocks(rows, "MXFP4")[..., 0].astype(np.int32) - 128)


def _q8_k(rows: Bytes) -> Floats:
    return np.ascontiguousarray(_blocks(rows, "Q8_K")[..., :4]).view(np.float32)[..., 0]


def _k_parts(kind: str) -> Callable[[Bytes], tuple[Floats, Floats]]:
    def parts(rows: Bytes) -> tuple[Floats, Floats]:
        blocks = _blocks(rows, kind)
        scales, minima = six_bits(blocks[..., 4:16])
        shape = (len(rows), -1)
        return (
            (scales * _halves(blocks, 0)[..., None]).reshape(shape),
            (minima * _halves(blocks, 2)[..., None]).reshape(shape),
        )

    return parts


def _one_parts(kind: str) -> Callable[[Bytes], tuple[Floats, Floats]]:
    return lambda rows: (_halves(_blocks(rows, kind), 0), -_halves(_blocks(rows, kind), 2))


def _q2_k_parts(rows: Bytes) -> tuple[Floats, Floats]:
    blocks = _blocks(rows, "Q2_K")
    scales = (blocks[..., :16] & 15) * _halves(blocks, 80)[..., None]
    minima = (blocks[..., :16] >> 4) * _halves(blocks, 82)[..., None]
    return scales.reshape(len(rows), -1), minima.reshape(len(rows), -1)


_IQ2, _IQ3, _IQ1 = (8, 25, 43), (4, 12, 20, 28, 36, 44, 52, 62), (1, 7, 9)
SYMMETRIC: dict[str, SymmetricType] = {
    "Q4_0": SymmetricType(4, 32, _one("Q4_0", 0), products=False),
    "Q8_0": SymmetricType(8, 32, _one("Q8_0", 0), products=False),
    "Q5_0": SymmetricType(8, 32, _one("Q5_0", 0), products=False),
    "IQ4_NL": SymmetricType(8, 32, _one("IQ4_NL", 0), products=False),
    "Q1_0": SymmetricType(2, 128, _one("Q1_0", 0), products=False),
    "TQ1_0": SymmetricType(2, 256, _one("TQ1_0", 52), products=False),
    "TQ2_0": SymmetricType(2, 256, _opposite("TQ2_0", 64), products=False),
    "Q2_0": SymmetricType(2, 64, _opposite("Q2_0", 0), products=False),
    "Q8_1": SymmetricType(8, 32, _one("Q8_1", 0), products=False),
    "MXFP4": SymmetricType(8, 32, _mxfp4), "Q8_K": SymmetricType(8, 256, _q8_k),
    "Q3_K": SymmetricType(4, 16, _q3_k), "Q6_K": SymmetricType(8, 16, _q6_k), "IQ4_XS": SymmetricType(8, 32, _iq4_xs),
    "NVFP4": SymmetricType(8, 16, levels=(1, 2, 3, 4, 6, 8, 12)),
    "IQ2_XXS": SymmetricType(8, 32, levels=_IQ2), "IQ2_XS": SymmetricType(8, 16, levels=_IQ2),
    "IQ2_S": SymmetricType(8, 16, levels=_IQ2), "IQ3_XXS": SymmetricType(8, 32, levels=_IQ3),
    "IQ3_S": SymmetricType(8, 32, levels=tuple(range(1, 16, 2))),
    "IQ1_S": SymmetricType(8, 32, levels=_IQ1), "IQ1_M": SymmetricType(8, 16, levels=_IQ1),
}  # fmt: skip
MINIMUM: dict[str, MinimumType] = {
    "Q4_1": MinimumType(4, 32, _one_parts("Q4_1")), "Q5_1": MinimumType(5, 32, _one_parts("Q5_1")),
    "Q2_K": MinimumType(2, 16, _q2_k_parts), "Q4_K": MinimumType(4, 32, _k_parts("Q4_K")),
    "Q5_K": MinimumType(5, 32, _k_parts("Q5_K")),
}  # fmt: skip


def whole_steps(rows: Bytes, kind: str) -> int | None:
    """The largest zero point of rows of a type with minima.

    None where a minimum is no whole number of 0 to 255 steps, or a scale no float16 number.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scales, minima = MINIMUM[kind].parts(rows)
        steps = _steps(minima, scales)
        same = scales.astype(np.float16).astype(np.float32) == scales
    fits = same & (steps >= 0) & (steps <= 255)
    return int(steps.max(initial=0)) if fits.all() else None


def _steps(minima: Floats, scales: Floats) -> Floats:
    """`minima / scales`, NaN where that is no whole number."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        wide = scales.astype(np.float64)
        whole = np.round(minima / wide)
        exact = np.isfinite(whole) & (whole * wide == minima)
    return np.where(minima == 0, 0.0, np.where(exact, whole, np.nan)).astype(np.float32)


def on_grid(rows: Bytes, kind: str, values: Floats, scheme: QuantScheme) -> QTensor:
    """Rows of blocks, whose `values` `[N, K]` are given, on `scheme`; raises ValueError for scales beyond float16."""
    grouped = values.reshape(len(rows), -1, scheme.group_size)
    if kind in MINIMUM:
        return _with_zero_points(rows, kind, grouped, scheme)
    largest = 1 << scheme.bits - 1
    own = SYMMETRIC[kind]
    scales = own.scales(rows) if own.scales is not None else _scales_of(grouped, own.levels)
    codes = _codes(grouped, scales, -largest, largest - 1)
    codes += np.float32(largest)
    return QTensor(codes.astype(np.uint8).reshape(values.shape), _narrow(scales), None, scheme.bits)


def _with_zero_points(rows: Bytes, kind: str, grouped: Floats, scheme: QuantScheme) -> QTensor:
    own = MINIMUM[kind]
    scales, minima = own.parts(rows)
    top = (1 << scheme.bits) - 1
    scales, zero_points = _nearest(scales, minima, (1 << own.bits) - 1, top)
    codes = _codes(grouped, scales, -zero_points[..., None], top - zero_points[..., None])
    codes += zero_points[..., None]
    shape = (len(rows), -1)
    return QTensor(codes.astype(np.uint8).reshape(shape), _narrow(scales), zero_points.astype(np.uint8), scheme.bits)


def _nearest(scales: Floats, minima: Floats, levels: int, top: int) -> tuple[Floats, Floats]:
    """Float16 scales and zero points of 0 to `top` for values `scale * code - minimum`, codes 0 to `levels`; all `[N, G]`.

    Of the whole numbers of our steps in a step of the type, the one with the least error: none for minima of whole steps. The
    error is a line over the codes: an offset, since a zero point is rounded, and a slope, since a scale is. A group whose range
    leaves no whole number, or that has one value, takes steps of its range.
    """
    ends = -minima, scales * np.float32(levels) - minima
    low: Floats = np.minimum(np.float32(0), np.minimum(*ends))
    high: Floats = np.maximum(np.float32(0), np.maximum(*ends))
    best_scales = _float16(np.divide(high - low, np.float32(top)))
    best_zeros = _zero_points(low, best_scales, top)
    least = np.square(best_scales) / np.float32(12)
    for steps in range(1, min(top // levels, _MOST_STEPS) + 1):
        fine = _float16(np.divide(np.abs(scales), np.float32(steps)))
        zeros = _zero_points(low, fine, top)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            offset = fine * np.rint(-minima / fine) + minima
            slope = np.copysign(fine, scales) * np.float32(steps) - scales
            middle = offset + slope * np.float32(levels / 2)
            error = np.square(middle) + np.square(slope * np.float32(levels / 4))
            fits = (fine > 0) & (zeros + np.rint(high / fine) <= top) & (error < least)
        least, best_scales = np.where(fits, error, least), np.where(fits, fine, best_scales)
        best_zeros = np.where(fits, zeros, best_zeros)
    return best_scales, best_zeros


def _zero_points(low: Floats, scales: Floats, top: int) -> Floats:
    steps: Floats = np.divide(-low, scales, out=np.zeros_like(low), where=scales > 0)
    return np.clip(np.rint(steps), 0, top)


def _float16(scales: Floats) -> Floats:
    """The nearest float16 numbers; beyond its range they stay, for `_narrow` to refuse."""
    with np.errstate(over="ignore"):
        narrow = scales.astype(np.float16).astype(np.float32)
    rounded: Floats = np.where(np.isfinite(narrow), narrow, scales)
    return rounded


def _codes(grouped: Floats, scales: Floats, low: int | Floats, high: int | Floats) -> Floats:
    """Whole steps of each value, in one pass of float32: a level of at most 255 steps is then off by 3e-5 of a step at most."""
    inverse = np.zeros_like(scales)
    np.divide(np.float32(1), scales, out=inverse, where=np.abs(scales) > _NO_SCALE)
    codes: Floats = grouped * inverse[..., None]
    np.rint(codes, out=codes)
    return np.clip(codes, low, high, out=codes)


def _scales_of(grouped: Floats, levels: tuple[int, ...]) -> Floats:
    """The scale of each group `[N, G, size]` whose largest magnitude is one of `levels` steps: that with which all are whole."""
    largest: Floats = np.abs(grouped).max(axis=-1)
    best = np.full(largest.shape, np.inf)
    scales: Floats = largest / np.float32(levels[-1])
    for level in levels:
        scale = largest / np.float32(level)
        steps = np.divide(grouped, scale[..., None], out=np.zeros_like(grouped), where=scale[..., None] != 0)
        off = np.abs(steps - np.rint(steps)).max(axis=-1)
        closer = off < best - 1e-3
        best = np.where(closer, off, best)
        scales = np.where(closer, scale, scales)
    return scales


def _narrow(scales: Floats) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        narrow = scales.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise ValueError(f"a scale of {np.abs(scales).max():g} is beyond float16")
    return narrow
