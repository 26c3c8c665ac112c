"""The block types of llama.cpp that hold a `QTensor`: each from the fewest bytes to the most, None where it does not fit.

| type | bytes a block | value | holds |
|---|---|---|---|
| Q4_0 | 18 for 32 | d (q - 8) | symmetric codes of 2 to 4 bits |
| Q4_1 | 20 for 32 | d q + m | codes of 2 to 4 bits, with zero points z: m = -d z as float16 |
| Q6_K | 210 for 256 | d s (q - 32) | symmetric 8-bit codes in groups of 16 that lie within 6 bits, scales that are multiples of one float16 |
| Q8_0 | 34 for 32 | d q | symmetric 8-bit codes |

A group of several blocks repeats its scale in each. Narrow symmetric codes move with the implied zero point. Both keep every
value. Q4_1 keeps every integer, and rounds the product m: a weight moves by at most 15 / 2048 of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.tensors.qtensor import QTensor
from ovround.tensors.reexpression import split, widened

Bytes = NDArray[np.uint8]

BLOCK, SUPER_BLOCK = 32, 256  # weights
_K_GROUP = 16
_NIBBLE_BITS = 4
_UNIT = 2.0**-24  # every float16 number is a multiple of it
_LEAST, _MOST = -128, 127  # int8


def encoded(parts: Sequence[QTensor]) -> tuple[str, Bytes] | None:
    """The smallest type that holds all `parts`, and their rows one after the other, `[N, bytes a row]`; None without one."""
    for kind, encode in _ENCODERS.items():
        rows: list[Bytes] = []
        for part in parts:
            data = encode(part)
            if data is None:
                break
            rows.append(data)
        else:
            return kind, np.concatenate(rows)
    return None


def bits_a_weight(bits: int, group_size: int, symmetric: bool) -> float:
    """At most so many bits a weight takes in its type, scales and minima included."""
    if bits > _NIBBLE_BITS:
        return 8.5
    return 4.5 if symmetric else 5.0


def unfit(bits: int, group_size: int, symmetric: bool, inputs: int, *, kept: bool = False) -> str:
    """Why no type holds such weights in rows of `inputs`; empty where one does, or may, for integers that are `kept`."""
    group = inputs if group_size == -1 else group_size
    if inputs % BLOCK:
        return f"its rows of {inputs} are no multiple of {BLOCK}"
    may_be_q6_k = kept and bits > _NIBBLE_BITS and symmetric and group == _K_GROUP
    if group % BLOCK and not may_be_q6_k:
        return f"its groups of {group} are no multiple of {BLOCK}"
    if bits > _NIBBLE_BITS and not symmetric:
        return f"{bits} bits with zero points have no type"
    return ""


def _q4_0(tensor: QTensor) -> Bytes | None:
    blocks = _in_blocks(tensor) if tensor.symmetric and tensor.bits <= _NIBBLE_BITS else None
    if blocks is None:
        return None
    wide = widened(blocks, _NIBBLE_BITS)
    return _rows(_halves(wide.scales), _nibbles(wide.codes))


def _q4_1(tensor: QTensor) -> Bytes | None:
    blocks = _in_blocks(tensor) if tensor.bits <= _NIBBLE_BITS else None
    if blocks is None:
        return None
    minima = minima_of(blocks)
    if not np.isfinite(minima).all():
        return None
    return _rows(_halves(blocks.scales), _halves(minima), _nibbles(blocks.codes))


def minima_of(tensor: QTensor) -> NDArray[np.float16]:
    """The value of code 0 of each group, `-scale * zero_point`, `[N, G]`: rounded to float16, infinite where that has none."""
    with np.errstate(over="ignore"):
        exact = -tensor.scales.astype(np.float32) * tensor.zeros().astype(np.float32)
        return (exact + np.float32(0)).astype(np.float16)  # no -0


def _q8_0(tensor: QTensor) -> Bytes | None:
    blocks = _in_blocks(tensor) if tensor.symmetric else None
    if blocks is None:
        return None
    wide = widened(blocks, 8)
    return _rows(_halves(wide.scales), _by_block(wide.codes ^ np.uint8(128), BLOCK))


def _q6_k(tensor: QTensor) -> Bytes | None:
    """256 weights: 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, d; each half in four runs of 32."""
    if not tensor.symmetric or tensor.bits != 8 or tensor.order is not None:
        return None
    if tensor.group_size != _K_GROUP or tensor.shape[1] % SUPER_BLOCK:
        return None
    codes = tensor.codes.astype(np.int16) - (128 - 32)
    factored = _factored(tensor.scales.reshape(len(codes), -1, SUPER_BLOCK // _K_GROUP))
    if factored is None or codes.min(initial=0) < 0 or codes.max(initial=0) > 63:
        return None
    halves = codes.astype(np.uint8).reshape(len(codes), -1, 2, 4, 32)
    low = (halves & 15)[..., :2, :] | (halves[..., 2:, :] & 15) << 4
    high = np.bitwise_or.reduce(halves >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=-2)
    count = halves.shape[:2]
    d, scales = factored
    return _rows(low.reshape(*count, 128), high.reshape(*count, 64), scales.view(np.uint8), _halves(d))


def _factored(scales: NDArray[np.float16]) -> tuple[NDArray[np.float16], NDArray[np.int8]] | None:
    """`scales` `[..., S]` as d `[...]` times int8; None where no float16 number d divides all.

    In units of the smallest float16 number scales are whole, and their greatest common divisor is a float16 number too.
    Whatever divides them all divides that, so if its multiples do not fit int8, none does.
    """
    whole = (scales.astype(np.float64) / _UNIT).astype(np.int64)
    divisor = np.gcd.reduce(whole, axis=-1)
    factors = whole // np.maximum(divisor, 1)[..., None]
    if factors.min(initial=0) < _LEAST or factors.max(initial=0) > _MOST:
        return None
    return (divisor * _UNIT).astype(np.float16), factors.astype(np.int8)


def _in_blocks(tensor: QTensor) -> QTensor | None:
    """`tensor` in groups of 32; None where its groups do not divide so, and for activation order."""
    if tensor.order is not None or tensor.group_size % BLOCK:
        return None
    return split(tensor, BLOCK)


def _by_block(values: NDArray[np.uint8], size: int) -> Bytes:
    return values.reshape(len(values), -1, size)


def _nibbles(codes: NDArray[np.uint8]) -> Bytes:
    """`[N, K]` codes as `[N, G, 16]` bytes: the first half of a block low, the second half high."""
    blocks = _by_block(codes, BLOCK)
    return blocks[..., : BLOCK // 2] | blocks[..., BLOCK // 2 :] << np.uint8(4)


def _halves(values: NDArray[np.float16]) -> Bytes:
    """`[N, G]` float16 numbers as `[N, G, 2]` bytes, the low byte first."""
    return np.ascontiguousarray(values, "<f2").view(np.uint8).reshape(*values.shape, 2)


def _rows(*fields: NDArray[Any]) -> Bytes:
    """The fields of all blocks, each `[N, G, bytes]`, as rows of bytes."""
    blocks = np.concatenate(fields, axis=-1)
    return np.ascontiguousarray(blocks.reshape(len(blocks), -1))


_ENCODERS: dict[str, Callable[[QTensor], Bytes | None]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q6_K": _q6_k, "Q8_0": _q8_0,
}  # fmt: skip
