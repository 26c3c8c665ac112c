"""`GaussianTopK` in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ovround.models.parts.gaussian_top_k import GaussianTopK

if TYPE_CHECKING:
    from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: GaussianTopK, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    (x,) = inputs
    deviation, mean = torch.std_mean(x, dim=-1, keepdim=True, correction=0)
    return (x - (mean + deviation * verb.quantile)).relu()
