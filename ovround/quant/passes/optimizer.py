"""Optimizers for tensors of different magnitudes: one rate for all, of which each tensor moves by its own share.

adam    by the running mean of the gradients over their root mean square (arXiv 1412.6980): a value whose gradients agree moves
        at the full rate; one whose gradients change their sign from batch to batch hardly moves
sign    by the sign of the last gradient, as in SignRound (arXiv 2309.05516)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch.optim.adam import adam

from ovround.quant.tensor_pool import TensorPool

_BETA, _SQUARE_BETA = 0.9, 0.95
_SMALL = 1e-2  # share of a tensor's mean root square, Adam's epsilon: groups that hardly matter must not move far
_FLOOR_EVERY = 10  # steps between two updates of that mean
_FUSED = ("cpu", "cuda")


class Optimizer(Protocol):
    def step(self, rate: float) -> None:
        """One step, which drops the gradients; a parameter without one stays."""
        ...


class Adam:
    """Moves `parameters` in place; where all gradients agree, a step of rate r moves each value by r times its size."""

    def __init__(
        self, parameters: Sequence[torch.Tensor], sizes: Sequence[float], pool: TensorPool | None = None
    ) -> None:
        """The two moments of each parameter are taken from `pool` where there is one."""
        self._parameters, self._sizes = parameters, sizes
        self._mean = [_zeros(parameter, pool) for parameter in parameters]
        self._second_moment = [_zeros(parameter, pool) for parameter in parameters]
        self._steps = [torch.zeros((), device=parameter.device) for parameter in parameters]
        self._floors = [0.0] * len(self._sizes)
        self._count = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """See `Optimizer`."""
        for number, (parameter, size) in enumerate(zip(self._parameters, self._sizes, strict=True)):
            grad = parameter.grad
            if grad is None:
                continue
            if self._count % _FLOOR_EVERY == 0 or self._floors[number] == 0:
                self._floors[number] = self._floor(number, grad)
            if self._floors[number] > 0:
                adam(
                    [parameter], [grad], [self._mean[number]], [self._second_moment[number]], [], [self._steps[number]],
                    fused=parameter.device.type in _FUSED, amsgrad=False, beta1=_BETA, beta2=_SQUARE_BETA,
                    lr=rate * size, weight_decay=0.0, eps=self._floors[number], maximize=False,
                )  # fmt: skip
            parameter.grad = None
        self._count += 1

    def _floor(self, number: int, grad: torch.Tensor) -> float:
        """Adam's epsilon for a tensor: `_SMALL` of the mean of its second moment's roots, with this step's gradient."""
        square = self._second_moment[number].lerp(grad.square(), 1 - _SQUARE_BETA)
        known: float = 1 - _SQUARE_BETA ** (float(self._steps[number]) + 1)
        return float(square.sqrt_().mean()) / math.sqrt(known) * _SMALL


class SignDescent:
    """Moves each of `parameters` in place by r times its size in a step of rate r."""

    def __init__(
        self, parameters: Sequence[torch.Tensor], sizes: Sequence[float], pool: TensorPool | None = None
    ) -> None:
        """It has no state, and takes nothing of `pool`."""
        self._parameters, self._sizes = parameters, sizes

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """See `Optimizer`."""
        for parameter, size in zip(self._parameters, self._sizes, strict=True):
            if parameter.grad is not None:
                parameter.sub_(parameter.grad.sign_(), alpha=rate * size)
                parameter.grad = None


def _zeros(like: torch.Tensor, pool: TensorPool | None) -> torch.Tensor:
    return torch.zeros_like(like) if pool is None else pool.take(like.shape)


OPTIMIZERS: dict[str, type[Adam] | type[SignDescent]] = {"adam": Adam, "sign": SignDescent}
