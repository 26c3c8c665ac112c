"""The hessian of each linear layer, X^T X of its inputs, gathered while a block is computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ovround.models.torch_ops import TorchOps


class InputHessian(TorchOps):
    """Computes like TorchOps, and sums X^T X `[K, K]` of every linear layer's input; layers with one input share it."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__(weights)
        self.hessians: dict[str, torch.Tensor] = {}
        self._input: torch.Tensor | None = None
        self._at = ""

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        self._gather(x, at)
        return super().linear(x, at)

    def _gather(self, x: torch.Tensor, at: str) -> None:
        if x is not self._input:
            self._input, self._at = x, at
            product = _gram(x.reshape(-1, x.shape[-1]))
            if at in self.hessians:
                self.hessians[at] += product
            else:
                self.hessians[at] = product
        else:
            self.hessians[at] = self.hessians[self._at]


class HeadHessian(InputHessian):
    """The same for the head `head_at` alone. It gives its input instead of the product, which nobody needs."""

    def __init__(self, weights: Mapping[str, torch.Tensor], head_at: str) -> None:
        super().__init__(weights)
        self._head_at = head_at

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        if at != self._head_at:
            return TorchOps.linear(self, x, at)
        self._gather(x, at)
        return x


def _gram(rows: torch.Tensor) -> torch.Tensor:
    """X^T X `[K, K]` in float32; for rows in bfloat16 by instructions for bfloat16, whose products float32 holds exactly."""
    wide = rows.float()
    before = torch.get_float32_matmul_precision()
    if rows.dtype == torch.bfloat16 and rows.device.type == "cpu":
        torch.set_float32_matmul_precision("medium")  # lets torch read float32 as bfloat16, which these values are
    try:
        return wide.T @ wide
    finally:
        torch.set_float32_matmul_precision(before)
