"""SignRound: learn, for one block, which level each weight takes, and each group's scale and zero point.

Every parameter follows the gradient of the block's output error, with a step that falls linearly to zero (arXiv 2309.05516,
algorithm 1). `tuned_weight` says what the parameters are, `optimizer` how they follow the gradient. The targets are the outputs of
the original blocks; the inputs are what the quantised blocks before them give. Held-out samples choose between the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ovround.quant.device import CPU, Device
from ovround.quant.distributed.group import ALONE, Group
from ovround.quant.emitted import StoredWeight
from ovround.quant.integers.tuned_weight import TunedWeight, gradients
from ovround.quant.passes.batches import batches
from ovround.quant.passes.candidates import is_candidate
from ovround.quant.passes.compilation import differentiated
from ovround.quant.passes.streamed_weights import EarlySteps, StreamedWeights
from ovround.quant.product_dtype import in_type

FEWEST = 50  # with fewer steps, a step is not made larger: levels that jump all at once do harm
# Share of a batch's largest errors that the robust loss leaves out (as SignRoundV2 does, arXiv 2512.04746): a few huge
# activations would outweigh all others. The threshold is estimated from a sample of the errors.
OUTLIERS = 0.001
_SAMPLE = 1 << 16

BlockForward = Callable[..., torch.Tensor]
"""Weights by name, hidden states `[B, T, hidden]`, type of products (None: float32), and what earlier blocks have left, in
the order of `Reconstruction.carried` -> the block's output in float32, of the shape of the hidden states."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a block is tuned: the number of steps, the samples of this process in each, and the options of a step.

    `robust` leaves the largest errors of a batch out of its loss. `step_dtype` is the type of products in gradient steps, None
    for float32. With `compile` torch compiles the steps. `offsets`: a later pass continues from the latent levels.
    """

    steps: int
    batch_size: int
    robust: bool = False
    step_dtype: torch.dtype | None = None
    compile: bool = False
    offsets: bool = False


@dataclass(frozen=True, slots=True)
class TunedBlock:
    """Result of a block's tuning: tensors by module name, and the mean squared output error on the held-out samples.

    `offsets` `[N, K]` are those of `TunedWeight.offsets`, from which a later pass continues; empty where none does.
    """

    weights: dict[str, StoredWeight]
    offsets: dict[str, NDArray[np.int8]]
    loss_before: float
    loss_after: float
    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """A block (or several) and the outputs that it should give: `inputs` and `targets` are `[S, T, hidden]` in host memory.

    The last `held_out` of the S samples of this process choose between candidates. `fixed` holds the tensors that are not
    tuned, on the device. `carried` is what the block reads of earlier ones besides its inputs, each `[S, ...]`. The modules
    `streamed` are computed by `TuningOps`, and their weights are made one at a time (see `streamed_weights`).
    """

    forward: BlockForward
    fixed: Mapping[str, torch.Tensor]
    inputs: torch.Tensor
    targets: torch.Tensor
    held_out: int
    carried: tuple[torch.Tensor, ...] = ()
    streamed: frozenset[str] = frozenset()

    def given(self, rows: slice | torch.Tensor, device: Device) -> list[torch.Tensor]:
        """Inputs and carried values of these samples on the device."""
        return [device.put(values[rows]) for values in (self.inputs, *self.carried)]

    @property
    def train(self) -> int:
        """The number of samples that gradients are taken on; they come first."""
        return self.inputs.shape[0] - self.held_out

    def weights(self, tuned: Sequence[TunedWeight], dtype: torch.dtype | None) -> Mapping[str, torch.Tensor]:
        """All weights of the block by name in `dtype` (None: float32), those under tuning as they are now."""
        streamed = [weight for weight in tuned if weight.name in self.streamed]
        made = {
            f"{weight.name}.weight": weight.fake_quantized(dtype or torch.float32)
            for weight in tuned
            if weight.name not in self.streamed
        }
        weights = {**in_type(self.fixed, dtype), **made}
        return StreamedWeights(weights, streamed, dtype) if streamed else weights

    @torch.no_grad()
    def held_out_loss(self, tuned: Sequence[TunedWeight], batch_size: int, device: Device, group: Group) -> float:
        """Mean squared error on the held-out samples of all processes."""
        weights, total = self.weights(tuned, None), 0.0
        for start in range(self.train, self.inputs.shape[0], batch_size):
            part = slice(start, min(start + batch_size, self.inputs.shape[0]))
            x, *carried = self.given(part, device)
            output = self.forward(weights, x, None, *carried)
            total += float(F.mse_loss(output, device.put(self.targets[part]), reduction="sum"))
        total, count = group.totals((total, self.targets[self.train :].numel()))
        return total / count


def tune_block(
    problem: Reconstruction,
    tuned: Sequence[TunedWeight],
    schedule: Schedule,
    generator: torch.Generator,
    on_step: Callable[[int, float], None],
    device: Device = CPU,
    group: Group = ALONE,
) -> TunedBlock:
    """Tune the weights `tuned`, which lie on `device`; `generator` draws the batches.

    `on_step` gets the number of steps done and the best loss so far.
    """
    steps = schedule.steps

    def held_out_loss() -> float:
        return problem.held_out_loss(tuned, schedule.batch_size, device, group)

    def loss(target: torch.Tensor, x: torch.Tensor, *carried: torch.Tensor) -> torch.Tensor:
        output = problem.forward(problem.weights(tuned, schedule.step_dtype), x, schedule.step_dtype, *carried)
        return _trimmed_error(output, target, schedule.robust)

    before = held_out_loss()
    best = _Best(tuned, before, schedule.offsets)
    # the gradients of several processes are summed first, all at once
    early = EarlySteps([weight for weight in tuned if weight.name in problem.streamed and group.size == 1])
    late = [weight for weight in tuned if weight.name not in problem.streamed or group.size > 1]
    with differentiated(loss, schedule.compile) as differentiate, early.watched():
        for step, rows in enumerate(batches(problem.train, schedule.batch_size, steps, generator)):
            rate = (1 - step / steps) / max(steps, FEWEST)
            early.begin(rate)
            differentiate(device.put(problem.targets[rows]), *problem.given(rows, device))
            group.sum_(gradients(tuned))
            early.end()
            for weight in late:
                weight.step(rate)
            device.end_step()
            if step + 1 > steps // 2 and is_candidate(step + 1, steps):
                best.offer(held_out_loss())
            on_step(step + 1, best.loss)
    return TunedBlock(best.weights, best.offsets, before, best.loss, steps)


class _Best:
    """What is stored of `tuned` as they were when the held-out `loss` was the lowest; the start is the first candidate.

    The codes take a quarter of the memory that the parameters would.
    """

    def __init__(self, tuned: Sequence[TunedWeight], loss: float, keeps_offsets: bool) -> None:
        self.loss = loss
        self.weights: dict[str, StoredWeight] = {}
        self.offsets: dict[str, NDArray[np.int8]] = {}
        self._tuned, self._keeps_offsets = tuned, keeps_offsets
        self._take()

    def offer(self, loss: float) -> None:
        """Take the weights as they are now if `loss`, which they give, is lower than any before."""
        if loss < self.loss:
            self.loss = loss
            self._take()

    def _take(self) -> None:
        for weight in self._tuned:
            self.weights[weight.name] = weight.result()
            if self._keeps_offsets and (offsets := weight.offsets()) is not None:
                self.offsets[weight.name] = offsets


class _TrimmedError(torch.autograd.Function):
    """Mean squared error with its gradient written out; where `robust`, the largest errors (`OUTLIERS`) are left out."""

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
    """The stride of a sample of about `_SAMPLE` elements that contains every feature."""
    stride = max(1, elements // _SAMPLE)
    while math.gcd(stride, features) > 1:
        stride += 1
    return stride
