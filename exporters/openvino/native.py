"""Weights for the native operator: codebooks, which OpenVINO has no type for, and integers of 2, 3 and 4 bits as it reads them.

Beside the constant `name` with the codes lie `name/codebooks` and `name/scale`, or `name/scale` and `name/zero_point`. The
layout is that of `ovround.native_layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov

from ovround import native_layout as layout
from ovround.codebooktensor import CodebookTensor
from ovround.exporters.openvino.constants import ConstantFile
from ovround.native_layout import CODEBOOK, INTEGERS, Bytes
from ovround.qtensor import QTensor
from ovround.quantized_linear import QuantizedLinear

CODEBOOKS, SCALE, ZERO_POINT = "/codebooks", "/scale", "/zero_point"


def holds(weight: QTensor) -> bool:
    """Whether the operator can hold `weight`: up to 4 bits, columns as the inputs stand, groups of whole runs."""
    return weight.bits in (2, 3, 4) and weight.order is None and layout.group_fits(weight.group_size, weight.shape[1])


def write_native(file: ConstantFile, name: str, weight: QTensor | CodebookTensor) -> None:
    """Append a weight's parts."""
    if isinstance(weight, CodebookTensor):
        _write(file, name, layout.pack_codes(weight.codes, weight.codebooks.shape[1]))
        _write(file, name + CODEBOOKS, layout.halves_as_bytes(weight.codebooks))
        _write(file, name + SCALE, layout.halves_as_bytes(weight.scales))
        return
    _write(file, name, layout.pack_integers(weight.codes, weight.bits))
    _write(file, name + SCALE, layout.halves_as_bytes(layout.pack_grid(weight.scales)))
    middle = np.array([1 << (weight.bits - 1)], np.uint8)
    _write(file, name + ZERO_POINT, middle if weight.symmetric else layout.pack_grid(weight.zeros()))


def _write(file: ConstantFile, name: str, part: Bytes) -> None:
    file.write(name, "u8", part.shape, part)


def product(file: ConstantFile, name: str, x: ov.Node, shape: tuple[int, int]) -> ov.Node:
    """x `[..., K]` times weight `name` `[N, K]`: the operator's node."""
    books = name + CODEBOOKS in file.entries
    bits = file.entries[name].shape[-1] // 64  # of integers
    parts = (name, name + CODEBOOKS, name + SCALE) if books else (name, name + SCALE, name + ZERO_POINT)
    return QuantizedLinear(
        [x.output(0), *(file.node(part).output(0) for part in parts)],
        weights=CODEBOOK if books else INTEGERS[bits],
        outputs=shape[0],
        inputs=shape[1],
    )


def read_native(
    read: Callable[[str], Any], name: str, shape: tuple[int, int], *, bits: int, symmetric: bool
) -> QTensor | CodebookTensor:
    """Weight `name` `[N, K]`, from `read`, which gives the array of a constant; `bits` 0: of codebooks.

    Raises ValueError for parts that contradict it.
    """
    scales = layout.bytes_as_halves(read(name + SCALE))
    if bits == 0:
        books = layout.bytes_as_halves(read(name + CODEBOOKS))
        codes = layout.unpack_codes(read(name), books.shape[1], len(scales))
        return CodebookTensor(codes, books, scales)
    codes8 = layout.unpack_integers(read(name), bits, *shape)
    points = read(name + ZERO_POINT)
    if symmetric and (points != 1 << (bits - 1)).any():
        raise ValueError(f"symmetric, yet with zero points {points.reshape(-1)[:4]}")
    zeros = None if symmetric else layout.unpack_grid(points, shape[0])
    return QTensor(codes8, layout.unpack_grid(scales, shape[0]), zeros, bits)
