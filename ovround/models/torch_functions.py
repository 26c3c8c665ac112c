"""Functions of torch with their gradients written out: a few passes over the activations where autograd's own take many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(_swapped(x), sin)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        cos, sin = ctx.saved_tensors
        return (grad * cos).addcmul_(_swapped(grad), sin, value=-1), None, None  # turned back


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = wide * inverse if wide is x else wide.mul_(inverse)
        ctx.save_for_backward(normed, inverse, weight)
        ctx.dtype = x.dtype
        return (normed * weight).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normed, inverse, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        grad = grads[0].float()
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            grad = grad * weight  # never in place: where nothing was converted it is another's
            along = (grad * normed).mean(-1, keepdim=True)
            grad_x = grad.addcmul_(normed, along, value=-1).mul_(inverse).to(ctx.dtype)
        return grad_x, grad_weight, None


turn: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = _Turn.apply
"""`x * cos + swapped(x) * sin`: features `[..., dim]`, the halves of the last axis swapped, tables that broadcast over them."""
rms_norm: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] = _RmsNorm.apply
"""`x * weight` over the root mean square of the last axis, computed in float32, given in the type of `weight`."""


def _swapped(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat([x[..., half:], x[..., :half]], -1)
