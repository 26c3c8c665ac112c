"""What a block's projections get to see: the second moments of their inputs, gathered while the block is computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ovround.models.torch_ops import TorchOps


class InputMoments(TorchOps):
    """Computes like TorchOps, and sums X^T X `[K, K]` of every linear layer's input; layers with one input share it."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__(weights)
        self.moments: dict[str, torch.Tensor] = {}
        self._input: torch.Tensor | None = None
        self._at = ""

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        self._gather(x, at)
        return super().linear(x, at)

    def _gather(self, x: torch.Tensor, at: str) -> None:
        if x is not self._input:
            self._input, self._at = x, at
            product = _second_moments(x.reshape(-1, x.shape[-1]))
            if at in self.moments:
                self.moments[at] += product
            else:
                self.moments[at] = product
        else:
            self.moments[at] = self.moments[self._at]


class HeadMoments(InputMoments):
    """The same for the head, whose product nobody needs: it gives its input back."""

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        self._gather(x, at)
        return x


def _second_moments(rows: torch.Tensor) -> torch.Tensor:
    """X^T X `[K, K]` float32, of rows in bfloat16 too: their products, which float32 holds, by instructions for bfloat16."""
    wide = rows.float()
    before = torch.get_float32_matmul_precision()
    if rows.dtype == torch.bfloat16 and rows.device.type == "cpu":
        torch.set_float32_matmul_precision("medium")  # takes float32 for bfloat16 on its way in: here it is
    try:
        return wide.T @ wide
    finally:
        torch.set_float32_matmul_precision(before)
