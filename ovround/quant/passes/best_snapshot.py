"""The best parameters so far, by the loss on held-out samples.

The reference implementation of SignRound keeps the step whose own mini-batch happened to have the lowest loss. Here a few
candidates, the start among them, are compared on one fixed set of samples that no gradient sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class BestSnapshot:
    """Copies of `tensors`, taken whenever their `loss` was the lowest so far; the start is the first candidate."""

    @torch.no_grad()
    def __init__(self, tensors: Sequence[torch.Tensor], loss: float) -> None:
        self.loss = loss
        self._tensors = tuple(tensors)
        self._copies = [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def offer(self, loss: float) -> None:
        """Copy the tensors as they are now if `loss`, which they give, is lower than any before."""
        if loss < self.loss:
            self.loss = loss
            for copy, tensor in zip(self._copies, self._tensors, strict=True):
                copy.copy_(tensor)

    @torch.no_grad()
    def restore(self) -> None:
        """Set the tensors back to the best copies."""
        for copy, tensor in zip(self._copies, self._tensors, strict=True):
            tensor.copy_(copy)
