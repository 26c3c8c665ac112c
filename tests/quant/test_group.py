"""The sums of several processes, with threads in their place, equal those of one process with all samples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoint_writer import random_weights, tiny_config

from ovround.models import from_config
from ovround.quant.calibration.calibration_activations import CalibrationActivations
from ovround.quant.calibration.samples import Calibration
from ovround.quant.device import CPU
from ovround.quant.distributed.group import Group
from ovround.quant.integers.tuned_weight import SignRoundWeight
from ovround.quant.passes.signround import Reconstruction, Schedule, TunedBlock, tune_block
from ovround.tensors.scheme import QuantScheme

SIZE = 3


class Meeting:
    """Sums tensors over all threads, in the order of their ranks."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(SIZE, timeout=60)
        self._brought: dict[int, list[torch.Tensor]] = {}

    def sums(self, rank: int, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self._brought[rank] = [tensor.clone() for tensor in tensors]
        self._barrier.wait()
        totals = [torch.stack(parts).sum(0) for parts in zip(*(self._brought[r] for r in range(SIZE)), strict=True)]
        self._barrier.wait()
        return totals


@dataclass(frozen=True)
class Thread(Group):
    """One of the threads."""

    meeting: Meeting | None = None

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        assert self.meeting is not None
        for tensor, total in zip(tensors, self.meeting.sums(self.rank, tensors), strict=True):
            tensor.copy_(total)

    def totals(self, values: Sequence[float]) -> list[float]:
        assert self.meeting is not None
        return [float(total) for total in self.meeting.sums(self.rank, [torch.tensor(values, dtype=torch.float64)])[0]]


def in_threads(work: Callable[[Group], object]) -> list[object]:
    meeting = Meeting()
    with ThreadPoolExecutor(SIZE) as threads:
        return list(threads.map(lambda rank: work(Thread(rank, SIZE, meeting=meeting)), range(SIZE)))


def forward(weights: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return F.linear(F.silu(x), weights["w.weight"])


def tuned(group: Group, *, whole: bool) -> TunedBlock:
    """Forty steps on all 12 samples a step; a thread has a share of them and of the 3 held-out ones."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 32, generator=generator)
    inputs = torch.randn(15, 5, 8, generator=generator) @ torch.randn(8, 32, generator=generator)
    targets = forward({"w.weight": weight}, inputs, None)
    if not whole:
        mine = [*range(12)[group.rank :: SIZE], *range(12, 15)[group.rank :: SIZE]]
        inputs, targets = inputs[mine], targets[mine]
    held_out = 3 if whole else 1
    return tune_block(
        Reconstruction(forward, {}, inputs, targets, held_out), [SignRoundWeight("w", weight, QuantScheme(3, 16, False))],
        Schedule(40, 12 if whole else 4), torch.Generator().manual_seed(0), lambda *_: None, CPU, group,
    )  # fmt: skip


def test_shared_steps_are_those_of_one_process() -> None:
    alone = tuned(Group(), whole=True)
    parts = in_threads(lambda group: tuned(group, whole=False))
    assert alone.loss_after < 0.9 * alone.loss_before
    first = parts[0]
    assert isinstance(first, TunedBlock)
    for part in parts:
        assert isinstance(part, TunedBlock)
        assert part.weights["w"].digest() == first.weights["w"].digest()
        assert (part.loss_before, part.loss_after) == (first.loss_before, first.loss_after)
    assert first.loss_before == pytest.approx(alone.loss_before, rel=1e-6)  # float32 sums in another order
    assert first.loss_after == pytest.approx(alone.loss_after, rel=0.05)

    def differing(other: TunedBlock) -> float:
        return float(np.mean(other.weights["w"].codes != alone.weights["w"].codes))

    lonely = tuned(Group(), whole=False)  # on a third of the samples, without the others' gradients
    assert differing(first) < 0.02  # a sign turns only where a gradient is nearly 0; measured: none
    assert differing(lonely) > 0.2


def test_hessians_and_quality_are_those_of_all_samples() -> None:
    config = tiny_config()
    decoder = from_config(config)
    weights = {name: torch.from_numpy(value) for name, value in random_weights(config).items()}
    samples = np.random.default_rng(0).integers(0, decoder.config.vocab_size, (11, 16))
    calibration = Calibration(samples, 2)  # fewer held out than threads: one has none

    def measure(group: Group) -> tuple[dict[str, torch.Tensor], tuple[float, ...]]:
        activations = CalibrationActivations(decoder, calibration.part(group.rank, group.size), 2, None, CPU, group)
        for states in (activations.full_precision, activations.quantized):
            activations.embed(states, weights)
        hessians = activations.hessians({name: weights[name] for name in decoder.tensors(0)}, range(1))
        head_at = f"{decoder.head_at}.weight"
        quality = activations.quality(weights, weights | {head_at: weights[head_at].round(decimals=1)})
        return hessians, (quality.tokens, quality.perplexity_original, quality.perplexity_quantised, quality.kl_nats)

    hessians, quality = measure(Group())
    assert quality[0] == 2 * 15
    for result in in_threads(measure):
        assert isinstance(result, tuple)
        assert result[1] == pytest.approx(quality, rel=1e-5)  # float32 logits, batches of other sizes
        assert result[0].keys() == hessians.keys()
        for name, hessian in hessians.items():
            # float32 sums of 144 products in another order
            torch.testing.assert_close(result[0][name], hessian, rtol=1e-4, atol=1e-4 * float(hessian.abs().max()))
