"""SignRound: learn, for one block, which level each weight takes and where each group's grid lies.

Every parameter follows the gradient of the block's output error, with a step that falls linearly to zero (arXiv 2309.05516,
algorithm 1); what the parameters are is `tuned_weight`'s business, how they follow `optimizer`'s. The target is the output of the
unquantised chain; the input is what the quantised blocks before it really give.

Unlike the reference implementation, which keeps the step whose own mini-batch happened to have the lowest loss, the
candidates are compared on one fixed set of windows that no gradient sees, the beginning among them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ovround.quant.device import CPU, Device
from ovround.quant.distributed.group import ALONE, Group
from ovround.quant.integers.tuned_weight import TunedWeight, gradients, restore, snapshot, update
from ovround.quant.passes.compilation import differentiated
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

# Up to so many multiplications a step, one thread: a step lasts some 10 ms then, and threads that wait for one another at
# each of its 500 small operations made it ten times slower on a busy machine (docs/log.md).
ONE_THREAD_WORK = 1 << 30
FEWEST = 50  # fewer steps are not larger ones: levels that jump all at once do harm
CANDIDATES = 10  # one in so many steps could be the best; those of the second half are compared on the held-out windows
# Share of a batch's largest errors that the robust loss leaves out (as SignRoundV2 does, arXiv 2512.04746): a few huge
# activations would drown what all others have to say. How large those are, some of the errors tell.
OUTLIERS = 0.001
_SAMPLE = 1 << 16

BlockForward = Callable[[Mapping[str, torch.Tensor], torch.Tensor, torch.dtype | None], torch.Tensor]
"""Weights by name, hidden states `[B, T, hidden]`, type of products (None: float32) -> the block's output in float32,
same shape."""


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
class Schedule:
    """How long and on what a block is tuned; `step_dtype` is what products of gradient steps are computed in, None for float32.

    `batch_size` windows a step are this process's own. `robust` leaves the largest errors of a batch out of its loss.
    `choose` compares candidates on the held-out windows; without it the last step's parameters are taken. `compile` has torch
    compile the steps.
    """

    steps: int
    batch_size: int
    robust: bool = False
    choose: bool = True
    step_dtype: torch.dtype | None = None
    compile: bool = False


@dataclass(frozen=True, slots=True)
class TunedBlock:
    """What a block's tuning gave: tensors by module name, and the mean squared output error on the held-out windows.

    `offsets` `[N, K]` say where the latent levels were left, for a pass that continues; codebooks have none.
    """

    weights: dict[str, QTensor | CodebookTensor | FloatTensor]
    offsets: dict[str, NDArray[np.int8]]
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
    schedule: Schedule,
    generator: torch.Generator,
    on_step: Callable[[int, float], None],
    device: Device = CPU,
    group: Group = ALONE,
) -> TunedBlock:
    """Tune the block's weights; inputs and targets are `[S, T, hidden]`, the last `held_out` of the S windows choose.

    `fixed` holds the block's other tensors; `on_step` is told the number of steps done and the best loss so far. Weights
    lie on `device`, the windows of this process of the `group` in host memory.
    """
    steps, batch_size = schedule.steps, schedule.batch_size
    train = inputs.shape[0] - held_out

    def weights(dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
        values = (weight.fake_quantized(dtype or torch.float32) for weight in tuned)
        return {**fixed, **{f"{weight.name}.weight": value for weight, value in zip(tuned, values, strict=True)}}

    @torch.no_grad()
    def held_out_loss() -> float:
        current, total = weights(None), 0.0
        for start in range(train, inputs.shape[0], batch_size):
            part = slice(start, min(start + batch_size, inputs.shape[0]))
            output = forward(current, device.put(inputs[part]), None)
            total += float(F.mse_loss(output, device.put(targets[part]), reduction="sum"))
        total, count = group.totals((total, targets[train:].numel()))
        return total / count

    def loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        output = forward(weights(schedule.step_dtype), x, schedule.step_dtype)
        return _trimmed_error(output, target, schedule.robust)

    best = before = held_out_loss()
    chosen = snapshot(tuned) if schedule.choose else []
    every = max(1, steps // CANDIDATES)
    with differentiated(loss, schedule.compile) as differentiate:
        for step, rows in enumerate(batches(train, batch_size, steps, generator)):
            differentiate(device.put(inputs[rows]), device.put(targets[rows]))
            group.sum_(gradients(tuned))
            rate = (1 - step / steps) / max(steps, FEWEST)
            for weight in tuned:
                weight.step(rate)
            device.end_step()
            if schedule.choose and step + 1 > steps // 2 and ((step + 1) % every == 0 or step + 1 == steps):
                now = held_out_loss()
                if now < best:
                    best = now
                    update(chosen, tuned)
            on_step(step + 1, best)
    if schedule.choose:
        restore(chosen, tuned)
    elif steps:
        best = held_out_loss()
    results = {weight.name: weight.result() for weight in tuned}
    offsets = {weight.name: found for weight in tuned if (found := weight.offsets()) is not None}
    return TunedBlock(results, offsets, before, best, steps)


def in_type(weights: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> Mapping[str, torch.Tensor]:
    """All weights in `dtype`, as they are for None; gradients pass."""
    return weights if dtype is None else {name: weight.to(dtype) for name, weight in weights.items()}


def batches(count: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Row numbers of `steps` batches: all of `count` rows in a random order, again and again, without a short batch."""
    order, position = torch.randperm(count, generator=generator), 0
    for _ in range(steps):
        if position + batch_size > count and position:
            order, position = torch.randperm(count, generator=generator), 0
        yield order[position : position + batch_size]
        position += batch_size


class _TrimmedError(torch.autograd.Function):
    """Mean squared error, its gradient written out; errors of `OUTLIERS`' size and above are left out where `robust`."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, target: torch.Tensor, robust: bool) -> torch.Tensor:
        error = (output - target).flatten()
        if robust:
            size = error.abs()
            sample = size[:: _stride(size.numel(), output.shape[-1])]
            threshold = sample.topk(max(1, round(OUTLIERS * sample.numel()))).values[-1]
            error.masked_fill_(size >= threshold, 0)
        ctx.save_for_backward(error)
        ctx.shape = output.shape
        return error.dot(error) / error.numel()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (error,) = ctx.saved_tensors
        return (error * (2 / error.numel() * grads[0])).view(ctx.shape), None, None


_trimmed_error: Callable[..., torch.Tensor] = _TrimmedError.apply  # torch leaves `apply` untyped


def _stride(elements: int, features: int) -> int:
    """About one element in how many makes a sample of `_SAMPLE` that meets every feature."""
    stride = max(1, elements // _SAMPLE)
    while math.gcd(stride, features) > 1:
        stride += 1
    return stride
