"""What tuning costs on this machine now: the first blocks tuned twice, on few short samples and on more tokens.

Both runs take the way of a conversion, and nothing of them is kept. From two points each cost is a line over the number of tokens,
with a part that does not depend on them: reading, the start of the levels, a step's work on the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ovround.errors import UsageError
from ovround.models.torch_ops import TorchOps
from ovround.progress import Progress
from ovround.quant.calibration.samples import Calibration
from ovround.quant.passes.block_pass import BlockPass
from ovround.quant.passes.context import QuantContext
from ovround.quant.passes.divergence import total_divergence
from ovround.quant.threads import threads_for
from ovround.quant.tuning_costs import Costs, Line

_STEPS = 6  # 1 warms up, 2 and 3 are plain, each of the later three is followed by a comparison on the held-out samples
_SHORTER = 4  # the first run's samples are so many times shorter


class _Run:
    """One run's seconds; the clock of its steps is the progress that the tuner reports."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.at: list[float] = []

    def report(self, progress: Progress) -> None:
        if progress.stage == "quantise" and progress.steps:
            self.at.append(self._clock())

    @property
    def plain_step_s(self) -> float:
        return min(later - earlier for earlier, later in zip(self.at[:2], self.at[1:3], strict=True))

    @property
    def compared_step_s(self) -> float:
        return min(later - earlier for earlier, later in zip(self.at[2:5], self.at[3:6], strict=True))


@dataclass(frozen=True, slots=True)
class _Point:
    """Tokens and seconds of one run, by piece."""

    train_tokens: int
    batch_tokens: int
    held_out_tokens: int
    all_tokens: int
    start_s: float
    step_s: float
    compare_s: float
    advance_s: float


def measure_costs(context: QuantContext, clock: Callable[[], float] = time.monotonic) -> Costs:
    """Measure on the samples of `context`, which should be few; its settings decide the batch and the start of the levels."""
    calibration = context.tuning_data
    length = calibration.samples.shape[1]
    shorter = np.ascontiguousarray(calibration.samples[:, : max(2, length // _SHORTER)])
    context = replace(context, settings=replace(context.settings, compile=False))
    few, many = _run(context, replace(calibration, samples=shorter), clock), _run(context, calibration, clock)
    step = Line.through((few.batch_tokens, few.step_s), (many.batch_tokens, many.step_s))
    return Costs(
        start=Line.through((few.train_tokens, few.start_s), (many.train_tokens, many.start_s)),
        step=step,
        plain_step=step,
        compare=Line.through((few.held_out_tokens, few.compare_s), (many.held_out_tokens, many.compare_s)),
        advance=Line.through((few.all_tokens, few.advance_s), (many.all_tokens, many.advance_s)),
        head=_head(context, length, clock),
        groups=-(-context.blocks // context.settings.block_group_size),
    )


def with_compiled_steps(
    context: QuantContext, costs: Costs, compile_s: float, clock: Callable[[], float] = time.monotonic
) -> Costs:
    """The costs with steps that torch compiles, measured once more; `compile_s` is what each group but the first takes."""
    run = _run(replace(context, settings=replace(context.settings, compile=True)), context.tuning_data, clock)
    share = run.step_s / costs.step(run.batch_tokens)
    first_s = run.start_s - costs.start(run.train_tokens)
    step = Line(costs.step.fixed_s * share, costs.step.token_s * share)
    return replace(costs, step=step, first_compile_s=max(compile_s, first_s), compile_s=compile_s)


def _run(context: QuantContext, calibration: Calibration, clock: Callable[[], float]) -> _Point:
    run = _Run(clock)
    settings = replace(context.settings, iters=_STEPS)
    context = replace(context, settings=settings, calibration=calibration, on_progress=run.report)
    block_pass = BlockPass(context)
    layers = range(min(settings.block_group_size, context.blocks))
    count, length = calibration.samples.shape
    train = count - calibration.held_out
    with context.activations(block_pass.front()) as activations:
        began = clock()
        blocks = block_pass.tune(layers, activations)
        tuned = clock()
        for layer, block in zip(layers, blocks, strict=True):
            context.advance_quantized(activations, layer, block)
        advanced = clock()
    if not run.at:
        raise UsageError(
            "time is given, yet the first block has no weight that is tuned", hint="--iters in place of it"
        )
    step_s = run.plain_step_s
    compare_s = max(0.0, run.compared_step_s - step_s)
    before_s, after_s = run.at[0] - began - step_s - compare_s, tuned - run.at[-1]
    return _Point(
        train * length, min(context.batch_size, train) * length, calibration.held_out * length, count * length,
        max(0.0, before_s + after_s), step_s, compare_s, advanced - tuned,
    )  # fmt: skip


def _head(context: QuantContext, length: int, clock: Callable[[], float]) -> Line:
    """The head of both models, their divergence and its gradient."""
    weights = {name: context.device.put(value) for name, value in context.original_head().items()}
    decoder, ops = context.decoder, TorchOps(weights)
    tokens = torch.zeros((1, length), dtype=torch.int64)
    seconds = []
    for _ in range(2):
        x = context.device.put(torch.randn(1, length, decoder.config.hidden_size)).requires_grad_()
        began = clock()
        with threads_for(sum(value.numel() for value in weights.values()) * length):
            with torch.no_grad():
                original = decoder.head(ops, x)
            total_divergence(decoder.head(ops, x), original, context.device.put(tokens), 0.0).backward()
        seconds.append(clock() - began)
    return Line(0.0, min(seconds) / length)
