"""SignRound: its gradients against plain autograd, the guarantees of its result, and determinism."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovround.errors import TensorError
from ovround.quant.integers.tuned_weight import SignRoundWeight
from ovround.quant.passes.signround import Reconstruction, Schedule, TunedBlock, tune_block
from ovround.tensors.scheme import QuantScheme

SCHEMES = [
    QuantScheme(bits, group, symmetric) for bits in (2, 3, 4, 8) for group in (16, -1) for symmetric in (True, False)
]
IDS = [f"{s.bits} bits, {s.group_size}, {'sym' if s.symmetric else 'asym'}" for s in SCHEMES]
ROWS, COLUMNS = 12, 32


def random_weight(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def disturbed(weight: torch.Tensor, scheme: QuantScheme, seed: int) -> SignRoundWeight:
    """A weight in the middle of its tuning: V up to a whole level, clipping factors that really clip."""
    tuned = SignRoundWeight("w", weight, scheme)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        tuned.shift.copy_(torch.rand(tuned.shift.shape, generator=generator, dtype=weight.dtype) * 2 - 1)
        for factor in (tuned.low_factor, tuned.high_factor):
            factor.copy_(torch.rand(factor.shape, generator=generator, dtype=weight.dtype) * 0.6 + 0.4)
    return tuned


def straight_through(x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The value of `rounded`, the gradient of `x`."""
    return x + (rounded - x).detach()


def plain_fake_quantize(tuned: SignRoundWeight) -> torch.Tensor:
    """The paper's formulas as differentiable torch, with gradients by autograd through straight-through roundings."""
    bits, symmetric = tuned.scheme.bits, tuned.scheme.symmetric
    low, high = tuned.low * tuned.low_factor, tuned.high * tuned.high_factor
    top = float(2**bits - 1)
    span = torch.maximum(-low, high) / 2 ** (bits - 1) if symmetric else (high - low) / top
    if symmetric:
        span = torch.where(-low > high, span, -span)
    scale = straight_through(span, span.half().to(span.dtype))
    offset = -low / scale
    zero = torch.full_like(scale, 2.0 ** (bits - 1)) if symmetric else straight_through(offset, offset.round())
    zero = zero if symmetric else zero.clamp(0, top)
    ratio = tuned.groups / scale + tuned.shift
    level = (straight_through(ratio, ratio.round()) + zero).clamp(0, top)
    return ((level - zero) * scale).view(tuned.shape)


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_gradients_are_those_of_plain_autograd(scheme: QuantScheme) -> None:
    tuned = disturbed(random_weight(1, torch.float64), scheme, 2)
    direction = random_weight(3, torch.float64)
    value, plain = tuned.fake_quantized(torch.float64), plain_fake_quantize(tuned)
    assert torch.equal(value, plain)
    actual = torch.autograd.grad((value * direction).sum(), tuned.parameters)
    expected = torch.autograd.grad((plain * direction).sum(), tuned.parameters)
    cut_off = value.abs() < 0.7 * tuned.groups.view(tuned.shape).abs()
    assert 0 < cut_off.sum() < cut_off.numel()  # both branches of the gradient are seen
    for name, gradient, other in zip(("V", "low factor", "high factor"), actual, expected, strict=True):
        assert other.abs().max() > 0, name
        # float64 sums of at most 32 terms in another order: 32 * 2^-53 of the largest term
        torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-12 * float(other.abs().max()), msg=name)


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_the_result_is_what_was_tuned_to_the_last_bit(scheme: QuantScheme) -> None:
    for seed in range(3):
        tuned = disturbed(random_weight(seed) * 10.0 ** (seed - 1), scheme, seed)
        result = tuned.result().dequantize()
        seen = tuned.fake_quantized().detach().numpy()
        np.testing.assert_array_equal(result.view(np.uint32), seen.view(np.uint32))


def test_factors_stay_between_zero_and_one_and_steps_follow_the_sign() -> None:
    tuned = SignRoundWeight("w", random_weight(0), QuantScheme(4, 16, False))
    for parameter in tuned.parameters:
        parameter.grad = torch.ones_like(parameter)
    tuned.high_factor.grad = -torch.ones_like(tuned.high_factor)
    tuned.step(0.25)
    assert torch.equal(tuned.shift, torch.full_like(tuned.shift, -0.25))
    assert torch.equal(tuned.low_factor, torch.full_like(tuned.low_factor, 0.75))
    assert torch.equal(tuned.high_factor, torch.ones_like(tuned.high_factor))
    assert all(parameter.grad is None for parameter in tuned.parameters)
    tuned.low_factor.grad = torch.ones_like(tuned.low_factor)
    tuned.step(5.0)
    assert torch.equal(tuned.low_factor, torch.zeros_like(tuned.low_factor))


def test_a_range_clipped_to_nothing_still_gives_levels() -> None:
    for symmetric in (True, False):
        tuned = SignRoundWeight("w", random_weight(0), QuantScheme(4, 16, symmetric))
        with torch.no_grad():
            tuned.low_factor.zero_()
            tuned.high_factor.zero_()
        values = tuned.result().dequantize()
        assert np.isfinite(values).all()
        assert np.array_equal(values, tuned.fake_quantized().detach().numpy())


def test_a_scale_that_overflows_is_refused_with_the_weights_name() -> None:
    tuned = SignRoundWeight("model.layers.0.mlp.up_proj", random_weight(0) * 1e7, QuantScheme(2, 16, True))
    with pytest.raises(TensorError, match=r"`model\.layers\.0\.mlp\.up_proj` has values so large"):
        tuned.result()


Forward = Callable[[Mapping[str, torch.Tensor], torch.Tensor, "torch.dtype | None"], torch.Tensor]


def two_layers(weights: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A block of two linear layers, `[B, T, 32]` -> `[B, T, 12]`, in place of a transformer's."""
    return F.linear(F.silu(F.linear(x, weights["up.weight"])), weights["down.weight"]) + weights["bias"]


def tune(
    scheme: QuantScheme,
    *,
    seed: int = 0,
    steps: int = 30,
    samples: int = 12,
    held_out: int = 4,
    batch_size: int = 3,
    forward: Forward = two_layers,
    reported: list[tuple[int, float]] | None = None,
) -> tuple[TunedBlock, Callable[[Mapping[str, torch.Tensor]], float]]:
    """Tune the two layers on random data; also gives the held-out loss of any other weights."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(32, 32, generator=generator) * 0.3
    down = torch.randn(12, 32, generator=generator) * 0.3
    fixed = {"bias": torch.randn(12, generator=generator)}
    inputs = torch.randn(samples, 5, 32, generator=generator)
    targets = two_layers({**fixed, "up.weight": up, "down.weight": down}, inputs, None)
    weights = [SignRoundWeight("up", up, scheme), SignRoundWeight("down", down, scheme)]
    seen: list[tuple[int, float]] = [] if reported is None else reported
    result = tune_block(
        Reconstruction(forward, fixed, inputs, targets, held_out), weights, Schedule(steps, batch_size),
        torch.Generator().manual_seed(seed), lambda step, loss: seen.append((step, loss)),
    )  # fmt: skip

    def loss(others: Mapping[str, torch.Tensor]) -> float:
        out = two_layers({**fixed, **others}, inputs[-held_out:], None)
        return float(F.mse_loss(out, targets[-held_out:]))

    return result, loss


def as_tensors(block: TunedBlock) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.from_numpy(weight.dequantize()) for name, weight in block.weights.items()}


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_the_held_out_loss_never_gets_worse_and_is_reported_as_it_is(scheme: QuantScheme) -> None:
    for seed in range(3):
        reported: list[tuple[int, float]] = []
        block, loss = tune(scheme, seed=seed, reported=reported)
        rounded, _ = tune(scheme, seed=seed, steps=0)
        assert block.loss_after <= block.loss_before
        # The sums of the chosen candidate, made once in batches of three and once in one piece: float32 rounding.
        assert block.loss_after == pytest.approx(loss(as_tensors(block)), rel=1e-5)
        assert block.loss_before == pytest.approx(loss(as_tensors(rounded)), rel=1e-5)
        assert [step for step, _ in reported] == list(range(1, 31))
        losses = [best for _, best in reported]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] == block.loss_after


def test_harmful_steps_are_undone() -> None:
    """When every candidate is worse than rounding, the result is rounding."""

    def backwards(weights: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        out = two_layers(weights, x, dtype)
        return out.detach() * 2 - out if out.requires_grad else out  # the gradient points away from the target

    scheme = QuantScheme(4, 16, False)
    block, _ = tune(scheme, forward=backwards)
    rounded, _ = tune(scheme, steps=0)
    assert block.loss_after == block.loss_before
    assert {name: weight.digest() for name, weight in block.weights.items()} == {
        name: weight.digest() for name, weight in rounded.weights.items()
    }


def digests(block: TunedBlock) -> list[str]:
    return [weight.digest() for weight in block.weights.values()]


def test_the_same_order_of_samples_gives_the_same_integers_and_another_order_others() -> None:
    scheme = QuantScheme(2, 16, False)
    first, again, other = tune(scheme, batch_size=2)[0], tune(scheme, batch_size=2)[0], tune(scheme, batch_size=4)[0]
    assert digests(first) == digests(again)
    assert (first.loss_before, first.loss_after) == (again.loss_before, again.loss_after)
    assert digests(first) != digests(other)


def batches_of(samples: int, held_out: int, batch_size: int, steps: int) -> list[list[int]]:
    """The samples of each training step, distinguished by their first value."""
    weight = SignRoundWeight("w", random_weight(0), QuantScheme(4, 16, True))
    inputs = torch.zeros(samples, 2, COLUMNS)
    inputs[:, 0, 0] = torch.arange(samples)
    seen: list[list[int]] = []

    def forward(weights: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append([int(value) for value in x[:, 0, 0]])
        return F.linear(x, weights["w.weight"])

    targets = torch.zeros(samples, 2, ROWS)
    generator = torch.Generator().manual_seed(0)
    tune_block(
        Reconstruction(forward, {}, inputs, targets, held_out),
        [weight],
        Schedule(steps, batch_size),
        generator,
        lambda *_: None,
    )
    return seen


@pytest.mark.parametrize(
    ("samples", "held_out", "batch_size"), [(12, 4, 4), (13, 2, 4), (9, 1, 8), (5, 1, 8), (4, 1, 1)]
)
def test_batches_are_drawn_without_repetition_and_never_from_the_held_out(
    samples: int, held_out: int, batch_size: int
) -> None:
    train = samples - held_out
    batches = batches_of(samples, held_out, batch_size, steps=4 * train)
    size = min(batch_size, train)
    assert {len(batch) for batch in batches} == {size}
    assert {row for batch in batches for row in batch} == set(range(train))
    epoch = train // size
    for start in range(0, len(batches) - epoch + 1, epoch):
        rows = [row for batch in batches[start : start + epoch] for row in batch]
        assert len(set(rows)) == len(rows), "a sample came twice before the others came once"
    if epoch > 1:
        assert batches[:epoch] != batches[epoch : 2 * epoch], "each epoch has an order of its own"


def test_candidates_are_compared_at_a_bounded_number_of_steps() -> None:
    evaluations = 0

    def counting(weights: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        nonlocal evaluations
        evaluations += not torch.is_grad_enabled()
        return two_layers(weights, x, dtype)

    result: Sequence[object] = tune(QuantScheme(4, 16, True), steps=100, held_out=3, batch_size=3, forward=counting)
    assert result
    assert evaluations == 6  # the start and five candidates, one batch each
