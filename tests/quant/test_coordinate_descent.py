"""Coordinate descent after a compensated start, against brute force on a small layer."""

from __future__ import annotations

import itertools

import pytest
import torch

from ovround.quant.integers import coordinate_descent
from ovround.quant.integers.coordinate_descent import descended
from ovround.quant.integers.initial_grid import Start, compensated, damped, inverse_factor
from ovround.quant.integers.tuned_weight import LearnedScaleWeight
from ovround.tensors.scheme import QuantScheme

ROWS, COLUMNS = 12, 96
SCHEMES = [
    QuantScheme(bits, group, symmetric) for bits in (2, 3, 4) for group in (16, -1) for symmetric in (True, False)
]
IDS = [f"{s.bits} bits, {s.group_size}, {'sym' if s.symmetric else 'asym'}" for s in SCHEMES]


def problem(rows: int = ROWS, columns: int = COLUMNS) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the damped hessian of correlated inputs, one of them always 0."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(4 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    inputs[:, 3] = 0
    return weight, damped(inputs.T @ inputs / columns)


def error(weight: torch.Tensor, start: Start, scheme: QuantScheme, hessian: torch.Tensor) -> torch.Tensor:
    """tr(E H E^T) by row, in float64."""
    value = LearnedScaleWeight("w", start, weight.shape, scheme).fake_quantized().detach()
    difference = (value - weight).double()
    return ((difference @ hessian.double()) * difference).sum(1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_no_row_loses_and_the_layer_wins(scheme: QuantScheme) -> None:
    weight, hessian = problem()
    start = compensated(weight, scheme, inverse_factor(hessian))
    actual = descended(weight, scheme, start, hessian)
    before, after = error(weight, start, scheme, hessian), error(weight, actual, scheme, hessian)
    assert (after <= before * (1 + 1e-4)).all()  # compared in float32
    assert after.sum() < 0.95 * before.sum()
    assert torch.equal(actual.scale, actual.scale.half().float())


def test_a_damaged_start_is_left_behind_and_a_good_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem()
    scheme = QuantScheme(3, 16, True)
    start = compensated(weight, scheme, inverse_factor(hessian))
    shaken = Start(
        start.scale,
        start.zero,
        start.latent + torch.randn(start.latent.shape, generator=torch.Generator().manual_seed(5)).sign(),
    )
    actual = error(weight, descended(weight, scheme, shaken, hessian), scheme, hessian)
    assert (actual < error(weight, shaken, scheme, hessian) / 4).all()
    nothing = torch.zeros_like(weight)  # every level wrong
    monkeypatch.setattr(coordinate_descent, "_round", lambda *arguments: (nothing, nothing))
    kept = descended(weight, scheme, start, hessian)
    assert torch.equal(kept.latent, start.latent)
    assert torch.equal(kept.scale, start.scale)


def test_in_the_end_no_single_level_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the resulting scales, every other level of every weight costs at least as much."""
    monkeypatch.setattr(coordinate_descent, "ROUNDS", 60)
    monkeypatch.setattr(coordinate_descent, "_fitted", lambda levels, scale, hessian, wanted: scale)
    weight, hessian = problem(4, 16)
    scheme = QuantScheme(2, 8, False)
    actual = descended(weight, scheme, compensated(weight, scheme, inverse_factor(hessian)), hessian)
    least = error(weight, actual, scheme, hessian)
    codes = actual.latent.round() + actual.zero
    for group, folder, code in itertools.product(range(2), range(8), range(4)):
        other = codes.clamp(0, 3)
        other[:, group, folder] = code
        tried = error(weight, Start(actual.scale, actual.zero, other - actual.zero), scheme, hessian)
        assert (tried >= least * (1 - 1e-5)).all()


def test_scales_are_those_of_least_squares() -> None:
    weight, hessian = problem(3, 32)
    levels = torch.randint(-4, 4, (3, 32), generator=torch.Generator().manual_seed(4)).float()
    root = torch.linalg.cholesky(hessian.double(), upper=True)
    for row in range(3):
        columns = torch.stack([levels[row] * (torch.arange(32) // 8 == group) for group in range(4)], 1).double()
        expected = torch.linalg.lstsq(root @ columns, root @ weight[row].double()).solution
        guess = expected.float().view(1, 4) * 1.2
        fitted = coordinate_descent._fitted(levels[row : row + 1], guess, hessian, weight[row : row + 1] @ hessian)
        # float16, and a ridge of 1e-4
        assert fitted.flatten().tolist() == pytest.approx(expected.tolist(), rel=5e-3, abs=2e-3)
        far = coordinate_descent._fitted(levels[row : row + 1], guess * 10, hessian, weight[row : row + 1] @ hessian)
        assert torch.equal(far, guess * 10)  # no scale runs away from where it was


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem()
    scheme = QuantScheme(3, 32, True)
    start = compensated(weight, scheme, inverse_factor(hessian))
    actual = []
    for columns in (7, 64, 1000):
        monkeypatch.setattr(coordinate_descent, "_COLUMNS", columns)
        actual.append(error(weight, descended(weight, scheme, start, hessian), scheme, hessian).sum())
    assert actual[0] == pytest.approx(float(actual[1]), rel=0.01)  # a level may fall to the other side of a tie
    assert actual[2] == pytest.approx(float(actual[1]), rel=0.01)
