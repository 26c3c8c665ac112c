"""SignRound: learn, for one block, which way each weight rounds and where each group clips.

Each weight has V in about [-1/2, 1/2], added before rounding; each group has two factors in [0, 1] on its lowest and
highest value. All three follow the sign of the gradient of the block's output error, with a step that falls linearly to
zero (arXiv 2309.05516, algorithm 1). The target is the output of the unquantised chain; the input is what the quantised
blocks before it really give.

Unlike the reference implementation, which keeps the step whose own mini-batch happened to have the lowest loss, the
candidates are compared on one fixed set of windows that no gradient sees, plain rounding among them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ovround.config import Scheme
from ovround.qtensor import QTensor
from ovround.quant.grid import check_scales, extremes, grouped, levels, scale_and_zero

# Up to so many multiplications a step, one thread: a step lasts some 10 ms then, and threads that wait for one another at
# each of its 500 small operations made it ten times slower on a busy machine (docs/log.md).
ONE_THREAD_WORK = 1 << 30
CANDIDATES = 20  # snapshots that are compared on the held-out windows during one block

BlockForward = Callable[[Mapping[str, torch.Tensor], torch.Tensor, torch.dtype | None], torch.Tensor]
"""Weights by name, hidden states `[B, T, hidden]`, type to multiply in -> the block's output, same shape."""


class _FakeQuantize(torch.autograd.Function):
    """`(levels - zero) * scale`, with straight-through gradients written out: one pass over the weights each way."""

    @staticmethod
    def forward(
        ctx: Any, groups: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int
    ) -> torch.Tensor:
        ratio = groups / scale
        level = (ratio + shift).round_().add_(zero)
        inside = (level >= 0) & (level <= (1 << bits) - 1)
        offset = level.clamp_(0, (1 << bits) - 1).sub_(zero)
        ctx.save_for_backward(ratio, offset, inside, scale)
        return offset * scale

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        ratio, offset, inside, scale = ctx.saved_tensors
        grad_shift = grad * scale * inside
        # d/ds of s * (round(w/s + v)) is offset - w/s where unclamped, offset where clamped
        grad_scale = (grad * (offset - ratio * inside)).sum(-1, keepdim=True)
        # a clamped level does not move with the zero point, so the value falls by s; an unclamped one moves along
        grad_zero = -(grad * scale * ~inside).sum(-1, keepdim=True)
        return None, grad_shift, grad_scale, grad_zero, None


_fake_quantize: Callable[..., torch.Tensor] = _FakeQuantize.apply  # torch leaves `apply` untyped


class TunedWeight:
    """One weight under tuning: V `[N, G, group]` and the two clipping factors `[N, G, 1]`."""

    def __init__(self, name: str, weight: torch.Tensor, scheme: Scheme) -> None:
        self.name, self.scheme, self.shape = name, scheme, weight.shape
        self.groups = grouped(weight, scheme)
        self.low, self.high = extremes(self.groups)
        self.shift = torch.zeros_like(self.groups, requires_grad=True)
        self.low_factor = torch.ones_like(self.low, requires_grad=True)
        self.high_factor = torch.ones_like(self.high, requires_grad=True)

    @property
    def parameters(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.shift, self.low_factor, self.high_factor

    def grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        return scale_and_zero(self.low * self.low_factor, self.high * self.high_factor, self.scheme)

    def fake_quantized(self) -> torch.Tensor:
        """The weight `[N, K]` that the engine will see, differentiable with respect to `parameters`."""
        return _fake_quantize(self.groups, self.shift, *self.grid(), self.scheme.bits).view(self.shape)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter by `rate` against the sign of its gradient; the factors stay within [0, 1]."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad.sign_(), alpha=rate)
                parameter.grad = None
        self.low_factor.clamp_(0, 1)
        self.high_factor.clamp_(0, 1)

    @torch.no_grad()
    def restore(self, snapshot: Sequence[torch.Tensor]) -> None:
        for parameter, saved in zip(self.parameters, snapshot, strict=True):
            parameter.copy_(saved)

    @torch.no_grad()
    def result(self) -> QTensor:
        """The integers, scales and zero points; their de-quantised value is `fake_quantized`, to the last bit."""
        scale, zero = self.grid()
        check_scales(self.name, scale)
        codes = levels(self.groups, scale, zero, self.scheme.bits, self.shift).to(torch.uint8).reshape(self.shape)
        zeros: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        if not self.scheme.symmetric:
            zeros = zero.squeeze(-1).to(torch.uint8).numpy()
        return QTensor(codes.numpy(), scale.squeeze(-1).half().numpy(), zeros, self.scheme.bits)


@contextlib.contextmanager
def threads_for(work: int) -> Iterator[None]:
    """One thread for steps of at most ONE_THREAD_WORK multiplications, torch's own setting for larger ones."""
    before = torch.get_num_threads()
    if work <= ONE_THREAD_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class TunedBlock:
    """What a block's tuning gave: tensors by module name, and the mean squared output error on the held-out windows."""

    weights: dict[str, QTensor]
    loss_before: float
    loss_after: float
    steps: int


def tune_block(
    forward: BlockForward,
    fixed: Mapping[str, torch.Tensor],
    tuned: Sequence[TunedWeight],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    held_out: int,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    matmul_dtype: torch.dtype | None,
    on_step: Callable[[int, float], None],
) -> TunedBlock:
    """Tune the block's weights; inputs and targets are `[S, T, hidden]`, the last `held_out` of the S windows choose.

    `fixed` holds the block's other tensors; `on_step` is told the number of steps done and the best loss so far.
    """
    train = inputs.shape[0] - held_out

    def weights() -> dict[str, torch.Tensor]:
        return {**fixed, **{f"{weight.name}.weight": weight.fake_quantized() for weight in tuned}}

    @torch.no_grad()
    def held_out_loss() -> float:
        current, total = weights(), 0.0
        for start in range(train, inputs.shape[0], batch_size):
            part = slice(start, min(start + batch_size, inputs.shape[0]))
            total += float(F.mse_loss(forward(current, inputs[part], None), targets[part], reduction="sum"))
        return total / targets[train:].numel()

    best = before = held_out_loss()
    snapshot = [[p.detach().clone() for p in weight.parameters] for weight in tuned]
    order = torch.randperm(train, generator=generator)
    position = 0
    every = max(1, steps // CANDIDATES)
    for step in range(steps):
        if position + batch_size > train and position:
            order, position = torch.randperm(train, generator=generator), 0
        rows = order[position : position + batch_size]
        position += batch_size
        loss = F.mse_loss(forward(weights(), inputs[rows], matmul_dtype), targets[rows])
        (loss * 1000.0).backward()  # only signs count: scaled away from underflow
        rate = (1 - step / steps) / steps
        for weight in tuned:
            weight.step(rate)
        if (step + 1) % every == 0 or step + 1 == steps:
            now = held_out_loss()
            if now < best:
                best = now
                for saved, weight in zip(snapshot, tuned, strict=True):
                    for kept, parameter in zip(saved, weight.parameters, strict=True):
                        kept.copy_(parameter.detach())
        on_step(step + 1, best)
    for saved, weight in zip(snapshot, tuned, strict=True):
        weight.restore(saved)
    return TunedBlock({weight.name: weight.result() for weight in tuned}, before, best, steps)
