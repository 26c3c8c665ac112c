"""Exact re-expression of a `QTensor`: the same values in another container, and the way back.

A format that lacks a width gets a wider one. A format that lacks a group size gets a divisor of it, with scales repeated. A
format without an implied zero point gets it stored. None of these changes `dequantize()` by a bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ovround.tensors.qtensor import QTensor

S = TypeVar("S", bound=np.generic)


def widened(tensor: QTensor, bits: int) -> QTensor:
    """`tensor` in `bits` bits, at least its own; symmetric codes move with the implied zero point."""
    if bits < tensor.bits:
        raise ValueError(f"{tensor.bits} bits do not fit {bits}")
    shift = symmetric_shift(tensor.bits, bits) if tensor.symmetric else 0
    return replace(tensor, codes=tensor.codes + np.uint8(shift), bits=bits)


def split(tensor: QTensor, group_size: int) -> QTensor:
    """`tensor` in groups of `group_size`, a divisor of its own: scales and zero points are repeated."""
    times, rest = divmod(tensor.group_size, group_size)
    if rest or not times:
        raise ValueError(f"groups of {group_size} do not divide groups of {tensor.group_size}")
    zero_points = None if tensor.zero_points is None else np.repeat(tensor.zero_points, times, axis=1)
    return replace(tensor, scales=np.repeat(tensor.scales, times, axis=1), zero_points=zero_points)


def with_zero_points(tensor: QTensor) -> QTensor:
    """`tensor` with its zero points stored, implied ones too."""
    return replace(tensor, zero_points=tensor.zeros())


def restored(tensor: QTensor, bits: int, group_size: int, symmetric: bool) -> QTensor:
    """Undo the above: `tensor` on its original scheme; raises ValueError where its levels do not fit that scheme."""
    if tensor.zero_points is None and not symmetric:
        tensor = with_zero_points(tensor)
    groups = tensor.shape[1] // group_size
    zero_points = None if tensor.zero_points is None else merged_groups(tensor.zero_points, groups)
    scales = merged_groups(tensor.scales, groups)
    shift = 0
    if symmetric:
        if zero_points is not None and (zero_points != 1 << (tensor.bits - 1)).any():
            raise ValueError("zero points are not those of a symmetric scheme")
        zero_points, shift = None, symmetric_shift(bits, tensor.bits)
    return QTensor(tensor.codes - np.uint8(shift), scales, zero_points, bits, tensor.order)


def symmetric_shift(narrow: int, wide: int) -> int:
    """What is added to a symmetric code of `narrow` bits that is stored in `wide` bits: the implied zero point moves."""
    return (1 << (wide - 1)) - (1 << (narrow - 1))


def merged_groups(values: NDArray[S], groups: int) -> NDArray[S]:
    """Values `[N, parts]`, several parts a group, as one value a group `[N, groups]`.

    Raises ValueError when the parts of a group differ.
    """
    grouped = values.reshape(len(values), groups, -1)
    first = np.ascontiguousarray(grouped[:, :, 0])
    if (grouped != first[:, :, None]).any():
        raise ValueError("parts of one group have different scales or zero points")
    return first
