"""The block types of llama.cpp that hold a `QTensor`, from the fewest bytes to the most; `affine.py` has those of an `AffineTensor`.

| type | bytes a block | value | holds |
|---|---|---|---|
| Q4_0 | 18 for 32 | d (q - 8) | symmetric codes of 2 to 4 bits |
| Q4_1 | 20 for 32 | d q + m | codes of 2 to 4 bits, with zero points z: m = -d z as float16 |
| Q8_0 | 34 for 32 | d q | symmetric 8-bit codes |

A group of several blocks repeats its scale in each. Narrow symmetric codes move with the implied zero point. Both keep every
value. Q4_1 keeps every integer, and rounds the product m: a weight moves by at most 15 / 2048 of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.tensors.native_layout import halves_as_bytes
from ovround.tensors.qtensor import QTensor
from ovround.tensors.reexpression import split, widened

Bytes = NDArray[np.uint8]

BLOCK = 32  # weights
_NIBBLE_BITS = 4


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


def unfit(bits: int, group_size: int, symmetric: bool, inputs: int) -> str:
    """Why no type holds such weights in rows of `inputs`; empty where one does."""
    group = inputs if group_size == -1 else group_size
    if inputs % BLOCK:
        return f"its rows of {inputs} are no multiple of {BLOCK}"
    if group % BLOCK:
        return f"its groups of {group} are no multiple of {BLOCK}"
    if bits > _NIBBLE_BITS and not symmetric:
        return f"{bits} bits with zero points have no type"
    return ""


def _q4_0(tensor: QTensor) -> Bytes | None:
    blocks = _in_blocks(tensor) if tensor.symmetric and tensor.bits <= _NIBBLE_BITS else None
    if blocks is None:
        return None
    wide = widened(blocks, _NIBBLE_BITS)
    return _rows(halves_as_bytes(wide.scales), packed_nibbles(_by_block(wide.codes, BLOCK)))


def _q4_1(tensor: QTensor) -> Bytes | None:
    blocks = _in_blocks(tensor) if tensor.bits <= _NIBBLE_BITS else None
    if blocks is None:
        return None
    wide = widened(blocks, _NIBBLE_BITS)
    minima = minima_of(wide)
    if not np.isfinite(minima).all():
        return None
    return _rows(halves_as_bytes(wide.scales), halves_as_bytes(minima), packed_nibbles(_by_block(wide.codes, BLOCK)))


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
    return _rows(halves_as_bytes(wide.scales), _by_block(wide.codes ^ np.uint8(128), BLOCK))


def _in_blocks(tensor: QTensor) -> QTensor | None:
    """`tensor` in groups of 32; None where its groups do not divide so, and for activation order."""
    if tensor.order is not None or tensor.group_size % BLOCK:
        return None
    return split(tensor, BLOCK)


def _by_block(values: NDArray[np.uint8], size: int) -> Bytes:
    return values.reshape(len(values), -1, size)


def packed_nibbles(codes: Bytes) -> Bytes:
    """`[..., 2 B]` codes as `[..., B]` bytes: the lower bits of the first half low, those of the second half high."""
    half = codes.shape[-1] // 2
    return codes[..., :half] & np.uint8(15) | codes[..., half:] << np.uint8(4)


def _rows(*fields: NDArray[Any]) -> Bytes:
    """The fields of all blocks, each `[N, G, bytes]`, as rows of bytes."""
    blocks = np.concatenate(fields, axis=-1)
    return np.ascontiguousarray(blocks.reshape(len(blocks), -1))


_ENCODERS: dict[str, Callable[[QTensor], Bytes | None]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}
