"""Round to nearest: the levels span each group's extremes, and every weight takes the nearest one. No data, no search."""

from __future__ import annotations

import numpy as np
import torch

from ovround.quant.integers.levels import check_scales, extremes, grouped, levels, scale_and_zero
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

_ROWS_ELEMENTS = 1 << 22  # weights in work at a time: temporaries take some tens of megabytes


def round_to_nearest(name: str, weight: FloatTensor, scheme: QuantScheme) -> tuple[QTensor, float]:
    """`weight` `[N, K]` quantised, and the relative error |W - Wq| / |W| (Frobenius); raises TensorError on overflow."""
    rows, columns = weight.shape
    group = columns if scheme.group_size == -1 else scheme.group_size
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, columns // group), np.float16)
    zeros = None if scheme.symmetric else np.empty(scales.shape, np.uint8)
    lost = kept = 0.0
    step = max(1, _ROWS_ELEMENTS // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        groups = grouped(torch.from_numpy(FloatTensor(weight.data[part], weight.dtype).float32()), scheme)
        scale, zero = scale_and_zero(*extremes(groups), scheme)
        check_scales(name, scale)
        chosen = levels(groups, scale, zero, scheme.bits)
        codes[part] = chosen.to(torch.uint8).reshape(-1, columns).numpy()
        scales[part] = scale.squeeze(-1).half().numpy()
        if zeros is not None:
            zeros[part] = zero.squeeze(-1).to(torch.uint8).numpy()
        difference = chosen.sub_(zero).mul_(scale).sub_(groups).flatten()
        lost += float(difference.dot(difference))
        kept += float(groups.flatten().dot(groups.flatten()))
    return QTensor(codes, scales, zeros, scheme.bits), (lost / kept) ** 0.5 if kept else 0.0
