"""Coordinate descent behind a compensated start, against brute force on a layer that is small enough for it."""

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
    """A weight, and the damped second moments of correlated inputs, one of them always 0."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(4 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    inputs[:, 3] = 0
    return weight, damped(inputs.T @ inputs / columns)


def error(weight: torch.Tensor, start: Start, scheme: QuantScheme, moments: torch.Tensor) -> torch.Tensor:
    """tr(E H E^T) by row, in float64."""
    value = LearnedScaleWeight("w", start, weight.shape, scheme).fake_quantized().detach()
    difference = (value - weight).double()
    return ((difference @ moments.double()) * difference).sum(1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_no_row_loses_and_the_layer_wins(scheme: QuantScheme) -> None:
    weight, moments = problem()
    start = compensated(weight, scheme, inverse_factor(moments))
    found = descended(weight, scheme, start, moments)
    before, after = error(weight, start, scheme, moments), error(weight, found, scheme, moments)
    assert (after <= before * (1 + 1e-4)).all()  # compared in float32
    assert after.sum() < 0.95 * before.sum()
    assert torch.equal(found.scale, found.scale.half().float())


def test_a_damaged_start_is_left_behind_and_a_good_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moments = problem()
    scheme = QuantScheme(3, 16, True)
    start = compensated(weight, scheme, inverse_factor(moments))
    shaken = Start(
        start.scale,
        start.zero,
        start.latent + torch.randn(start.latent.shape, generator=torch.Generator().manual_seed(5)).sign(),
    )
    found = error(weight, descended(weight, scheme, shaken, moments), scheme, moments)
    assert (found < error(weight, shaken, scheme, moments) / 4).all()
    nothing = torch.zeros_like(weight)  # every level wrong
    monkeypatch.setattr(coordinate_descent, "_round", lambda *arguments: (nothing, nothing))
    kept = descended(weight, scheme, start, moments)
    assert torch.equal(kept.latent, start.latent)
    assert torch.equal(kept.scale, start.scale)


def test_in_the_end_no_single_level_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the scales as they are then, every other level of every weight costs at least as much."""
    monkeypatch.setattr(coordinate_descent, "ROUNDS", 60)
    monkeypatch.setattr(coordinate_descent, "_fitted", lambda levels, scale, moments, wanted: scale)
    weight, moments = problem(4, 16)
    scheme = QuantScheme(2, 8, False)
    found = descended(weight, scheme, compensated(weight, scheme, inverse_factor(moments)), moments)
    least = error(weight, found, scheme, moments)
    codes = found.latent.round() + found.zero
    for group, place, code in itertools.product(range(2), range(8), range(4)):
        other = codes.clamp(0, 3)
        other[:, group, place] = code
        tried = error(weight, Start(found.scale, found.zero, other - found.zero), scheme, moments)
        assert (tried >= least * (1 - 1e-5)).all()


def test_scales_are_those_of_least_squares() -> None:
    weight, moments = problem(3, 32)
    levels = torch.randint(-4, 4, (3, 32), generator=torch.Generator().manual_seed(4)).float()
    root = torch.linalg.cholesky(moments.double(), upper=True)
    for row in range(3):
        columns = torch.stack([levels[row] * (torch.arange(32) // 8 == group) for group in range(4)], 1).double()
        expected = torch.linalg.lstsq(root @ columns, root @ weight[row].double()).solution
        guess = expected.float().view(1, 4) * 1.2
        fitted = coordinate_descent._fitted(levels[row : row + 1], guess, moments, weight[row : row + 1] @ moments)
        # float16, and a ridge of 1e-4
        assert fitted.flatten().tolist() == pytest.approx(expected.tolist(), rel=5e-3, abs=2e-3)
        far = coordinate_descent._fitted(levels[row : row + 1], guess * 10, moments, weight[row : row + 1] @ moments)
        assert torch.equal(far, guess * 10)  # no scale runs away from where it was


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moments = problem()
    scheme = QuantScheme(3, 32, True)
    start = compensated(weight, scheme, inverse_factor(moments))
    found = []
    for columns in (7, 64, 1000):
        monkeypatch.setattr(coordinate_descent, "_COLUMNS", columns)
        found.append(error(weight, descended(weight, scheme, start, moments), scheme, moments).sum())
    assert found[0] == pytest.approx(float(found[1]), rel=0.01)  # a level may fall to the other side of a tie
    assert found[2] == pytest.approx(float(found[1]), rel=0.01)
