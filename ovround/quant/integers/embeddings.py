"""Embedding and head on few levels: begun better than by rounding, for the pass over all blocks to continue.

8 bits lose nothing that is worth a search, so rounding serves there. Below, the embedding's grids are searched, and the head's
levels are compensated for the hidden states that it really gets, a few rows at a time: a table may be a third of a model.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.quant.block_store import Emitted
from ovround.quant.integers.initial_grid import compensated, inverse_factor, searched
from ovround.quant.integers.tuned_weight import LearnedScaleWeight
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

TUNED_BITS = 4  # tables of more bits are rounded to nearest
_ROWS_ELEMENTS = 1 << 23  # work on so many weights at a time


@torch.no_grad()
def begin_table(name: str, table: FloatTensor, scheme: QuantScheme, moments: torch.Tensor | None) -> Emitted:
    """`table` `[V, K]`, with latent levels to continue from.

    `moments` `[K, K]` are the second moments of what a head multiplies; None: rows are looked up, each value counts alike.
    Raises TensorError when a scale overflows.
    """
    rows, columns = table.shape
    factor = None if moments is None else inverse_factor(moments)
    parts: list[QTensor] = []
    offsets: list[NDArray[np.int8]] = []
    lost = kept = 0.0
    size = max(1, _ROWS_ELEMENTS // columns)
    for first in range(0, rows, size):
        part = torch.from_numpy(FloatTensor(table.data[first : first + size], table.dtype).float32())
        start = searched(part, scheme, torch.ones(columns)) if factor is None else compensated(part, scheme, factor)
        weight = LearnedScaleWeight(name, start, part.shape, scheme)
        parts.append(weight.result())
        offsets.append(weight.offsets())
        difference = torch.from_numpy(parts[-1].dequantize()).sub_(part)
        lost += float(difference.square_().sum())
        kept += float(part.square().sum())
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    joined = QTensor(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(zeros) if zeros else None,
        scheme.bits,
    )
    return Emitted(name, joined, (lost / kept) ** 0.5 if kept else 0.0, np.concatenate(offsets))
