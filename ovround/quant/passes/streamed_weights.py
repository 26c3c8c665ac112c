"""Weights of a block under tuning that exist one at a time.

A mixture's experts are most of its block. Their de-quantised values, the gradients of those, and the gradients of their parameters
would take 12 bytes a weight if all of them were there at once. So each value is made where its product is computed, and made
again when that product is differentiated. A weight takes its step as soon as its own gradients are there, while the backward pass is
still under way. The numbers are the same to the last bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ovround.models.torch_ops import TorchOps
from ovround.quant.integers.tuned_weight import TunedWeight


class StreamedWeights(Mapping[str, torch.Tensor]):
    """The tensors `made`, and those of `streamed` by module name, which are made anew at each look-up."""

    def __init__(
        self, made: Mapping[str, torch.Tensor], streamed: Sequence[TunedWeight], dtype: torch.dtype | None
    ) -> None:
        self._made, self.dtype = made, dtype or torch.float32
        self.streamed = {f"{weight.name}.weight": weight for weight in streamed}

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = self.streamed.get(name)
        return self._made[name] if weight is None else weight.fake_quantized(self.dtype)

    def __iter__(self) -> Iterator[str]:
        yield from self._made
        yield from self.streamed

    def __len__(self) -> int:
        return len(self._made) + len(self.streamed)


class _Product(torch.autograd.Function):
    """`[R, K]` times the transpose of a weight under tuning, plus a bias; the weight's value is made again for the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        weight: TunedWeight,
        dtype: torch.dtype,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.dtype, ctx.parameters = weight, dtype, parameters
        return F.linear(x, weight.fake_quantized(dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), (x,) = grads, ctx.saved_tensors
        with torch.enable_grad():
            value = ctx.weight.fake_quantized(ctx.dtype)
        # in the form that autograd gives them, whose sums are those of torch's own product
        of_parameters = torch.autograd.grad(value, ctx.parameters, grad.t().mm(x))
        of_x = grad.mm(value.detach()) if ctx.needs_input_grad[0] else None
        return of_x, grad.sum(0) if ctx.needs_input_grad[1] else None, None, None, *of_parameters


_product: Callable[..., torch.Tensor] = _Product.apply  # torch leaves `apply` untyped


class TuningOps(TorchOps):
    """Computes like TorchOps; where its weights are `StreamedWeights`, no value of those is kept for the gradients."""

    def product(self, x: torch.Tensor, at: str) -> torch.Tensor:
        weights = self.weights
        weight = weights.streamed.get(f"{at}.weight") if isinstance(weights, StreamedWeights) else None
        if weight is None or not isinstance(weights, StreamedWeights) or not torch.is_grad_enabled():
            return super().product(x, at)
        rows, dtype = x.to(weights.dtype).flatten(0, -2), weights.dtype
        out = _product(rows, weights.get(f"{at}.bias"), weight, dtype, *weight.parameters)
        return out.view(*x.shape[:-1], out.shape[-1])


class EarlySteps:
    """Steps of `weights` within the backward pass: each is taken when the gradients of all its parameters are there."""

    def __init__(self, weights: Sequence[TunedWeight]) -> None:
        self._weights = weights
        self._rate = 0.0
        self._missing: dict[str, int] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[EarlySteps]:
        """The parameters are watched within."""
        handles = [
            parameter.register_post_accumulate_grad_hook(partial(self._arrived, weight))
            for weight in self._weights
            for parameter in weight.parameters
        ]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, rate: float) -> None:
        """The next backward pass steps at this rate."""
        self._rate = rate
        self._missing = {weight.name: len(weight.parameters) for weight in self._weights}

    def end(self) -> None:
        """Step what has not got all of its gradients."""
        for weight in self._weights:
            if self._missing[weight.name]:
                weight.step(self._rate)

    def _arrived(self, weight: TunedWeight, parameter: torch.Tensor) -> None:
        self._missing[weight.name] -= 1
        if not self._missing[weight.name]:
            weight.step(self._rate)
