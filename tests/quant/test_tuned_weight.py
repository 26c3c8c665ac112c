"""LearnedScaleWeight: gradients against plain autograd, the result to the last bit, continuing from a finished weight."""

from __future__ import annotations

import pytest
import torch

from ovround.quant.integers import tuned_weight
from ovround.quant.integers.initial_grid import Start, from_extremes
from ovround.quant.integers.levels import grouped
from ovround.quant.integers.tuned_weight import LATENT_RATE, OFFSET_STEPS, LearnedScaleWeight
from ovround.tensors.scheme import QuantScheme

SCHEMES = [
    QuantScheme(bits, group, symmetric) for bits in (2, 3, 4, 8) for group in (16, -1) for symmetric in (True, False)
]
IDS = [f"{s.bits} bits, {s.group_size}, {'sym' if s.symmetric else 'asym'}" for s in SCHEMES]


def disturbed(scheme: QuantScheme, dtype: torch.dtype = torch.float32, optimizer: str = "adam") -> LearnedScaleWeight:
    """A weight in the middle of its tuning: levels out of range, scales and zero points moved."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 32, generator=generator, dtype=dtype)
    start = from_extremes(weight, scheme)
    latent = start.latent + torch.rand(start.latent.shape, generator=generator, dtype=dtype) * 3 - 1.5
    free = LearnedScaleWeight("w", Start(start.scale, start.zero, latent), weight.shape, scheme, optimizer)
    with torch.no_grad():
        free.factor += torch.rand(free.factor.shape, generator=generator, dtype=dtype) * 0.4 - 0.2
        free.zero_shift += torch.rand(free.factor.shape, generator=generator, dtype=dtype) * 1.4 - 0.7
    return free


def straight_through(x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return x + (rounded - x).detach()


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_gradients_are_those_of_plain_autograd(scheme: QuantScheme) -> None:
    free = disturbed(scheme, torch.float64)
    direction = torch.randn(free.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    (free.fake_quantized(torch.float64) * direction).sum().backward()
    actual = [parameter.grad for parameter in free.parameters]
    for parameter in free.parameters:
        parameter.grad = None

    top = float(2**scheme.bits - 1)
    scale = free.scale * free.factor
    scale = straight_through(scale, scale.half().double())
    zero = free.zero
    if not scheme.symmetric:
        moved = free.zero + free.zero_shift
        zero = straight_through(moved, moved.round()).clamp(0, top)
    level = (straight_through(free.latent, free.latent.round()) + zero).clamp(0, top)
    plain = ((level - zero) * scale).view(free.shape)
    assert torch.equal(plain, free.fake_quantized(torch.float64))
    (plain * direction).sum().backward()
    for parameter, grad in zip(free.parameters, actual, strict=True):
        assert grad is not None
        assert parameter.grad is not None
        # the same sums in another order, in float64
        assert torch.allclose(grad, parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_rows_at_a_time_change_nothing(scheme: QuantScheme, monkeypatch: pytest.MonkeyPatch) -> None:
    direction = torch.randn(6, 32, generator=torch.Generator().manual_seed(6))
    actual = []
    for elements in (1, 2 * 32, 1 << 16):  # a row, two rows, all of them
        monkeypatch.setattr(tuned_weight, "_PART", elements)
        free = disturbed(scheme)
        value = free.fake_quantized(torch.bfloat16)
        value.backward(direction.to(torch.bfloat16))
        actual.append([value.detach(), *(parameter.grad for parameter in free.parameters)])
    for other in actual[1:]:
        assert all(torch.equal(first, second) for first, second in zip(actual[0], other, strict=True))
    assert torch.equal(actual[0][0], disturbed(scheme).fake_quantized().detach().to(torch.bfloat16))


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_the_result_is_what_was_tuned_to_the_last_bit(scheme: QuantScheme) -> None:
    free = disturbed(scheme)
    assert torch.equal(torch.from_numpy(free.result().dequantize()), free.fake_quantized().detach())


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_a_finished_weight_is_taken_up_as_it_was(scheme: QuantScheme) -> None:
    free = disturbed(scheme)
    finished = free.result()
    resumed = LearnedScaleWeight.resumed("w", finished, free.offsets(), scheme)
    assert resumed.result().digest() == finished.digest()
    assert torch.equal(resumed.fake_quantized().detach(), free.fake_quantized().detach())
    codes = grouped(torch.from_numpy(finished.codes).float(), scheme)
    inside = (free.latent + free.qparams()[1] - codes).abs() <= 0.5
    assert inside.any()
    # kept to 1/256 of a level, and on this side of the next rounding
    assert float((resumed.latent - free.latent).detach()[inside].abs().max()) <= 1.5 / OFFSET_STEPS


@pytest.mark.parametrize("optimizer", ["adam", "sign"])
def test_a_step_goes_against_the_gradient_and_scales_keep_their_sign(optimizer: str) -> None:
    free = disturbed(QuantScheme(4, 16, True), optimizer=optimizer)
    before = free.latent.detach().clone()
    free.fake_quantized().sum().backward()
    assert free.latent.grad is not None
    grad = free.latent.grad.clone()
    free.step(0.25)
    # Adam's first step is the sign, but for the little that keeps it from dividing by nothing
    assert torch.allclose(free.latent, before - 0.25 * LATENT_RATE[optimizer][4] * grad.sign(), rtol=0, atol=0.006)
    assert free.latent.grad is None
    with torch.no_grad():
        free.factor.fill_(1e-3)
    free.bound()
    assert (free.factor > 0).all()
