"""`ScaleBy` in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ovround.models.parts.scale_by import ScaleBy

if TYPE_CHECKING:
    from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: ScaleBy, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    return inputs[0] * ops.weights[verb.tensor]
