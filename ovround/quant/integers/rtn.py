"""Round to nearest: the levels span each group's extremes, and every weight takes the nearest one. No data, no search."""

from __future__ import annotations

import math

import numpy as np
import torch

from ovround.quant.integers.levels import (
    SMALLEST_NORMAL,
    Store,
    check_scales,
    extremes,
    grouped,
    levels,
    scale_and_zero,
    to_float16,
    to_float32,
)
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

_ROWS_ELEMENTS = 1 << 22  # weights in work at a time: temporaries take some tens of megabytes
_WORTH_IT = 0.9  # float32 scales are kept if they lower the error to this share of it


def round_to_nearest(
    name: str, weight: FloatTensor, scheme: QuantScheme, *, wide_scales: bool = False
) -> tuple[QTensor, float]:
    """`weight` `[N, K]` quantised, and the relative error |W - Wq| / |W| (Frobenius); raises TensorError on overflow.

    `wide_scales`: all scales of the weight may be float32, where float16 holds them so coarsely that the error suffers.
    """
    narrow, error, tiny = _rounded(weight, scheme, to_float16)
    overflows = not np.isfinite(narrow.scales).all()
    if wide_scales and (overflows or tiny):
        wide, wide_error, _ = _rounded(weight, scheme, to_float32)
        if overflows or wide_error < _WORTH_IT * error:
            return wide, wide_error
    check_scales(name, torch.from_numpy(narrow.scales))
    return narrow, error


def _rounded(weight: FloatTensor, scheme: QuantScheme, store: Store) -> tuple[QTensor, float, bool]:
    """The weight, its relative error, and whether float16 holds the scale of a group with fewer bits than others."""
    rows, columns = weight.shape
    group = columns if scheme.group_size == -1 else scheme.group_size
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, columns // group), np.float16 if store is to_float16 else np.float32)
    zeros = None if scheme.symmetric else np.empty(scales.shape, np.uint8)
    lost = kept = 0.0
    tiny = False
    step = max(1, _ROWS_ELEMENTS // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        groups = grouped(torch.from_numpy(FloatTensor(weight.data[part], weight.dtype).float32()), scheme)
        low, high = extremes(groups)
        scale, zero = scale_and_zero(low, high, scheme, store)
        tiny = tiny or bool(((scale.abs() < SMALLEST_NORMAL) & (low < high)).any())
        scales[part] = scale.squeeze(-1).numpy()
        chosen = levels(groups, scale, zero, scheme.bits)
        codes[part] = chosen.to(torch.uint8).reshape(-1, columns).numpy()
        if zeros is not None:
            zeros[part] = zero.squeeze(-1).to(torch.uint8).numpy()
        difference = chosen.sub_(zero).mul_(scale).sub_(groups).flatten().double()
        lost += float(difference.dot(difference))
        values = groups.flatten().double()
        kept += float(values.dot(values))
    return QTensor(codes, scales, zeros, scheme.bits), math.sqrt(lost / kept) if kept else 0.0, tiny
