"""Initial scales and levels: search is never worse than rounding, compensation never worse than search, in their own errors."""

from __future__ import annotations

import pytest
import torch

from ovround.quant.integers.initial_grid import Start, compensated, from_extremes, inverse_factor, searched
from ovround.quant.integers.tuned_weight import LearnedScaleWeight
from ovround.tensors.scheme import QuantScheme

SCHEMES = [
    QuantScheme(bits, group, symmetric) for bits in (2, 3, 4, 8) for group in (16, 32) for symmetric in (True, False)
]
SCHEMES.append(QuantScheme(3, -1, False))
IDS = [f"{s.bits} bits, {s.group_size}, {'sym' if s.symmetric else 'asym'}" for s in SCHEMES]
ROWS, COLUMNS = 24, 64


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the hessian of correlated inputs of very different sizes, one of them always 0."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(ROWS, COLUMNS, generator=generator)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=generator) / 8 + torch.eye(COLUMNS)
    sizes = torch.logspace(-1, 1, COLUMNS)[torch.randperm(COLUMNS, generator=generator)]
    inputs = torch.randn(512, COLUMNS, generator=generator) @ mixing * sizes
    inputs[:, 7] = 0
    return weight, inputs.T @ inputs


def quantized(weight: torch.Tensor, start: Start, scheme: QuantScheme) -> torch.Tensor:
    return LearnedScaleWeight("w", start, weight.shape, scheme).fake_quantized().detach()


def output_error(weight: torch.Tensor, start: Start, scheme: QuantScheme, hessian: torch.Tensor) -> float:
    """Sum of squared output errors over the inputs: tr(D H D^T)."""
    difference = quantized(weight, start, scheme) - weight
    return float(((difference @ hessian) * difference).sum())


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_each_way_is_better_than_the_one_before(scheme: QuantScheme) -> None:
    weight, hessian = problem()
    importance = hessian.diagonal()
    plain, actual = from_extremes(weight, scheme), searched(weight, scheme, importance)

    def weighed(start: Start) -> float:
        return float(((quantized(weight, start, scheme) - weight).square() * importance).sum())

    assert weighed(actual) <= weighed(plain)
    if scheme.bits <= 3:
        assert weighed(actual) < 0.95 * weighed(plain)
    made_up_for = compensated(weight, scheme, inverse_factor(hessian))
    assert output_error(weight, made_up_for, scheme, hessian) < 0.95 * output_error(weight, actual, scheme, hessian)


@pytest.mark.parametrize("symmetric", [True, False])
def test_without_correlation_there_is_nothing_to_make_up_for(symmetric: bool) -> None:
    weight, _ = problem()
    scheme = QuantScheme(3, 16, symmetric)
    actual = searched(weight, scheme, torch.ones(COLUMNS))
    alone = compensated(weight, scheme, inverse_factor(torch.eye(COLUMNS)))
    assert torch.equal(quantized(weight, alone, scheme), quantized(weight, actual, scheme))


def test_compensation_is_that_of_the_textbook() -> None:
    """One row for given qparams: each column's error moves the others by H^-1 of the rest, computed anew each time."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(1, 8, generator=generator)
    inputs = torch.randn(64, 8, generator=generator) @ (torch.randn(8, 8, generator=generator) + 2 * torch.eye(8))
    hessian = inputs.T @ inputs
    scheme = QuantScheme(4, -1, True)
    start = compensated(weight, scheme, inverse_factor(hessian))
    scale = float(start.scale)
    damped = hessian.double() + 0.01 * hessian.double().diagonal().mean() * torch.eye(8, dtype=torch.float64)
    row, latent = weight[0].double().clone(), []
    for column in range(8):
        latent.append(float(row[column]) / scale)
        rounded = min(max(round(latent[-1]), -8), 7) * scale
        inverse = torch.linalg.inv(damped[column:, column:])
        row[column:] -= (row[column] - rounded) / inverse[0, 0] * inverse[0]
    # float32 against float64 over eight columns
    assert start.latent.flatten().tolist() == pytest.approx(latent, abs=1e-4)
