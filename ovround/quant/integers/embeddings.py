"""Initial levels of an embedding or head at few bits, better than those of rounding; the end-to-end pass continues from them.

At 8 bits a search gains nothing, so rounding serves there. At fewer bits, the scales of an embedding are searched, and the levels
of a head are compensated for its real inputs. Both work on some rows at a time, since an embedding may be a third of a model.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.quant.emitted import Emitted
from ovround.quant.integers.initial_grid import compensated, inverse_factor, searched
from ovround.quant.integers.tuned_weight import LearnedScaleWeight
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

TUNED_BITS = 4  # embeddings and heads of more bits are rounded to nearest
_ROWS_ELEMENTS = 1 << 23  # weights in work at a time


@torch.no_grad()
def init_embedding(name: str, embedding: FloatTensor, scheme: QuantScheme, hessian: torch.Tensor | None) -> Emitted:
    """`embedding` `[V, K]`, quantised, with the latent levels that a later pass continues from.

    `hessian` `[K, K]` is X^T X of a head's inputs. None is for an embedding, whose rows are looked up: each value counts the
    same. Raises TensorError when a scale overflows.
    """
    rows, columns = embedding.shape
    factor = None if hessian is None else inverse_factor(hessian)
    parts: list[QTensor] = []
    offsets: list[NDArray[np.int8]] = []
    lost = kept = 0.0
    size = max(1, _ROWS_ELEMENTS // columns)
    for first in range(0, rows, size):
        part = torch.from_numpy(FloatTensor(embedding.data[first : first + size], embedding.dtype).float32())
        start = searched(part, scheme, torch.ones(columns)) if factor is None else compensated(part, scheme, factor)
        weight = LearnedScaleWeight(name, start, part.shape, scheme)
        parts.append(weight.result())
        offsets.append(weight.offsets())
        difference = torch.from_numpy(parts[-1].dequantize()).sub_(part)
        lost += float(difference.square_().sum())
        kept += float(part.square().sum())
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    quantised = QTensor(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(zeros) if zeros else None,
        scheme.bits,
    )
    return Emitted(name, quantised, (lost / kept) ** 0.5 if kept else 0.0, np.concatenate(offsets))
