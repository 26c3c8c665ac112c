"""One allocation for many tensors: thousands of them, freed one by one, leave the heap in pieces that no other one fits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class TensorPool:
    """`elements` float32 zeros, from which tensors take their places one after the other; all are freed together."""

    def __init__(self, elements: int, device: torch.device | str = "cpu") -> None:
        self._values = torch.zeros(elements, device=device)
        self._taken = 0

    def take(self, shape: Sequence[int]) -> torch.Tensor:
        """The next tensor, of zeros; raises ValueError where there are not enough left."""
        end = self._taken + math.prod(shape)
        if end > len(self._values):
            raise ValueError(f"{end} elements of a pool of {len(self._values)}")
        taken = self._values[self._taken : end].view(tuple(shape))
        self._taken = end
        return taken
