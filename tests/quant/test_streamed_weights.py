"""Weights that are made one at a time are tuned to the same bits, and their gradients never exist together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F

from ovround.quant.distributed.group import ALONE
from ovround.quant.integers.initial_grid import from_extremes
from ovround.quant.integers.tuned_weight import LearnedScaleWeight, SignRoundWeight, TunedWeight
from ovround.quant.passes.signround import Reconstruction, Schedule, TunedBlock, tune_block
from ovround.quant.passes.streamed_weights import TuningOps
from ovround.quant.tensor_pool import TensorPool
from ovround.tensors.scheme import QuantScheme

NAMES = ("up", "gate", "down")
Make = Callable[[str, torch.Tensor], TunedWeight]


def learned(symmetric: bool) -> Make:
    scheme = QuantScheme(3, 16, symmetric)
    return lambda name, matrix: LearnedScaleWeight(name, from_extremes(matrix, scheme), matrix.shape, scheme)


def clipped(name: str, matrix: torch.Tensor) -> TunedWeight:
    return SignRoundWeight(name, matrix, QuantScheme(2, 16, False))


def forward(weights: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """Two experts of a kind: the second product is of some rows, one is of none."""
    ops = TuningOps(weights, activation_groups={"gate": 16})
    gated = F.silu(ops.linear(x[:2, 0], "gate")) * ops.linear(x[:2, 0], "up")
    nobody = ops.linear(x[:0, 0], "up").sum()
    return x.float().index_add(0, torch.arange(2), ops.linear(gated, "down").float().unsqueeze(1)) + nobody


def tuned(
    make: Make, streamed: frozenset[str], seen: list[int] | None = None, dtype: torch.dtype | None = None
) -> TunedBlock:
    generator = torch.Generator().manual_seed(0)
    matrices = {name: torch.randn(32, 32, generator=generator) * 0.3 for name in NAMES}
    inputs = torch.randn(9, 1, 32, generator=generator)
    fixed = {"down.bias": torch.randn(32, generator=generator)}
    targets = forward({**{f"{name}.weight": matrix for name, matrix in matrices.items()}, **fixed}, inputs, None)
    weights = [make(name, matrix) for name, matrix in matrices.items()]
    if seen is not None:
        for weight in weights:
            watch(weight, weights, seen)
    problem = Reconstruction(forward, fixed, inputs, targets, 3, streamed=streamed)
    schedule = Schedule(12, 3, step_dtype=dtype, offsets=True)
    return tune_block(problem, weights, schedule, torch.Generator().manual_seed(0), lambda *_: None, group=ALONE)


def watch(weight: TunedWeight, weights: list[TunedWeight], seen: list[int]) -> None:
    """Note at each step of `weight` how many weights have gradients."""
    step = weight.step

    def noted(rate: float) -> None:
        seen.append(sum(any(parameter.grad is not None for parameter in one.parameters) for one in weights))
        step(rate)

    weight.step = noted  # type: ignore[method-assign]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("make", [learned(True), learned(False), clipped], ids=["sym", "asym", "clipped"])
def test_the_result_is_the_same_to_the_last_bit(make: Make, dtype: torch.dtype | None) -> None:
    whole, streamed = tuned(make, frozenset(), dtype=dtype), tuned(make, frozenset(NAMES), dtype=dtype)
    assert whole.loss_after < whole.loss_before
    assert (streamed.loss_before, streamed.loss_after) == (whole.loss_before, whole.loss_after)
    assert {name: weight.digest() for name, weight in streamed.weights.items()} == {
        name: weight.digest() for name, weight in whole.weights.items()
    }
    assert all((streamed.offsets[name] == offsets).all() for name, offsets in whole.offsets.items())
    rounded = tuned(make, frozenset(NAMES[:1]), dtype=dtype)  # some of them streamed, others not
    assert rounded.loss_after == whole.loss_after


def test_gradients_of_streamed_weights_never_exist_together() -> None:
    together: list[int] = []
    one_by_one: list[int] = []
    tuned(learned(False), frozenset(), together)
    tuned(learned(False), frozenset(NAMES), one_by_one)
    assert max(together) == len(NAMES)
    assert set(one_by_one) == {1}


def test_a_pool_gives_each_tensor_a_place_of_its_own() -> None:
    pool = TensorPool(10)
    first, second = pool.take((2, 3)), pool.take((4,))
    first += 1
    assert second.tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="11 elements of a pool of 10"):
        pool.take((1,))
