"""What moves parameters down their gradients, on tensors of different sizes: each moves by its own share of one rate.

adam    by the mean of the gradients of late as a share of their root mean square (arXiv 1412.6980): what every batch
        agrees on moves at the full rate, what changes its sign from batch to batch stays about where it is
sign    by the sign of the last gradient, as SignRound has it (arXiv 2309.05516)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

_BETA, _SQUARE_BETA = 0.9, 0.95
_SMALL = 1e-2  # of a tensor's mean root square: keeps Adam from blowing up groups that hardly matter


class Optimizer(Protocol):
    def step(self, rate: float) -> None:
        """One step, which forgets the gradients; a parameter without one stays."""
        ...


class Adam:
    """Moves `parameters` in place; where all gradients agree, a step of rate r moves each value by r times its size."""

    def __init__(self, parameters: Sequence[torch.Tensor], sizes: Sequence[float]) -> None:
        self._parameters, self._sizes = parameters, sizes
        self._mean = [torch.zeros_like(parameter) for parameter in parameters]
        self._square = [torch.zeros_like(parameter) for parameter in parameters]
        self._count = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """See `Optimizer`."""
        self._count += 1
        for parameter, size, mean, square in zip(self._parameters, self._sizes, self._mean, self._square, strict=True):
            grad = parameter.grad
            if grad is None:
                continue
            mean.mul_(_BETA).add_(grad, alpha=1 - _BETA)
            square.mul_(_SQUARE_BETA).addcmul_(grad, grad, value=1 - _SQUARE_BETA)
            root = (square / (1 - _SQUARE_BETA**self._count)).sqrt_()
            floor = float(root.mean()) * _SMALL
            if floor > 0:
                parameter.sub_(mean / (root + floor), alpha=rate * size / (1 - _BETA**self._count))
            parameter.grad = None


class SignDescent:
    """Moves each of `parameters` in place by r times its size in a step of rate r."""

    def __init__(self, parameters: Sequence[torch.Tensor], sizes: Sequence[float]) -> None:
        self._parameters, self._sizes = parameters, sizes

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """See `Optimizer`."""
        for parameter, size in zip(self._parameters, self._sizes, strict=True):
            if parameter.grad is not None:
                parameter.sub_(parameter.grad.sign_(), alpha=rate * size)
                parameter.grad = None


OPTIMIZERS: dict[str, type[Adam] | type[SignDescent]] = {"adam": Adam, "sign": SignDescent}
