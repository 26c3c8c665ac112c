"""`KnownIds` in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ovround.models.parts.known_ids import KnownIds

if TYPE_CHECKING:
    from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: KnownIds, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    return inputs[0] * (inputs[0] < verb.count)
