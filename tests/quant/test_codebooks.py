"""Codebooks of one weight: k-means, beam search against all combinations, least squares against its solution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ovround.quant.codebooks.fit import fit_codebooks, fit_entries, fit_scales, output_error
from ovround.quant.codebooks.kmeans import Additive, residual_kmeans, weighted_kmeans
from ovround.quant.codebooks.search import search_codes
from ovround.quant.codebooks.tuned_weight import CodebookWeight
from ovround.tensors.scheme import Codebooks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the hessian of correlated inputs."""
    weight = torch.randn(rows, columns, generator=generator(seed))
    mixed = torch.randn(columns, columns, generator=generator(seed + 1)) + torch.eye(columns)
    inputs = torch.randn(50, columns, generator=generator(seed + 2)) @ mixed
    return weight, inputs.T @ inputs / 50


def random_codes(weight: torch.Tensor, layout: Codebooks, seed: int = 3) -> Additive:
    rows, columns = weight.shape
    shape = (rows, columns // layout.vector_size, layout.count)
    codes = torch.randint(1 << layout.bits, shape, generator=generator(seed))
    books = torch.randn(layout.count, 1 << layout.bits, layout.vector_size, generator=generator(seed + 1))
    return Additive(codes, books, torch.rand(rows, generator=generator(seed + 2)) + 0.5)


def exhaustive(weight: torch.Tensor, hessian: torch.Tensor, additive: Additive) -> torch.Tensor:
    """Each row's lowest error over all combinations of codes, by brute force."""
    _, groups, books = additive.codes.shape
    best = torch.full((len(weight),), float("inf"))
    for combination in itertools.product(range(additive.codebooks.shape[1]), repeat=groups * books):
        codes = torch.tensor(combination).view(1, groups, books).expand(len(weight), -1, -1)
        best = torch.minimum(best, output_error(weight, hessian, Additive(codes, additive.codebooks, additive.scales)))
    return best


@pytest.mark.parametrize("layout", [Codebooks(2, 2, 2), Codebooks(1, 3, 4), Codebooks(3, 1, 2)], ids=str)
def test_a_wide_beam_is_exhaustive(layout: Codebooks) -> None:
    columns = 2 * layout.vector_size
    weight, hessian = layer(3, columns)
    additive = random_codes(weight, layout)
    combinations = 1 << (layout.bits * layout.count * 2)
    errors = search_codes(weight, hessian, additive, beam=combinations, span=columns)
    torch.testing.assert_close(errors, exhaustive(weight, hessian, additive), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(errors, output_error(weight, hessian, additive), rtol=1e-4, atol=1e-5)


def test_a_narrow_beam_is_not() -> None:
    weight, hessian = layer(40, 8, seed=7)
    additive = random_codes(weight, Codebooks(2, 2, 4))
    best = exhaustive(weight, hessian, additive)
    errors = search_codes(weight, hessian, additive, beam=1, span=4)
    assert (errors > best * 1.01).any()


@pytest.mark.parametrize(("beam", "span"), [(1, 4), (1, 64), (3, 8), (5, 12)])
def test_errors_carried_along_are_those_computed_anew_and_never_grow(beam: int, span: int) -> None:
    weight, hessian = layer(17, 24)
    additive = random_codes(weight, Codebooks(2, 4, 4))
    before = output_error(weight, hessian, additive)
    for _ in range(3):
        errors = search_codes(weight, hessian, additive, beam, span)
        anew = output_error(weight, hessian, additive)
        # float32: some hundred additions of terms up to the first error
        torch.testing.assert_close(errors, anew, rtol=1e-4, atol=1e-5 * float(before.max()))
        assert (anew <= before + 1e-4 * before.max()).all()
        before = anew


def test_entries_are_the_least_squares_solution() -> None:
    weight, hessian = layer(12, 8)
    additive = random_codes(weight, Codebooks(1, 2, 2))
    fit_entries(weight, hessian, additive, steps=200)
    root = torch.linalg.cholesky(hessian.double())  # |(W - W') root|^2 is the error
    unit = torch.eye(8, dtype=torch.float64)
    columns = [
        Additive(additive.codes, vector.view(1, 4, 2), additive.scales.double()).value() @ root
        for vector in torch.eye(8, dtype=torch.float64)
    ]
    design = torch.stack([column.flatten() for column in columns], 1)
    solved = torch.linalg.lstsq(design, (weight.double() @ root @ unit).flatten()).solution
    np.testing.assert_allclose(additive.codebooks.flatten(), solved, rtol=2e-3, atol=2e-3)


def test_no_scale_is_better_than_the_fitted() -> None:
    weight, hessian = layer(12, 8)
    additive = random_codes(weight, Codebooks(2, 2, 4))
    fit_scales(weight, hessian, additive)
    best = output_error(weight, hessian, additive)
    for factor in (0.98, 1.02):
        other = Additive(additive.codes, additive.codebooks, additive.scales * factor)
        assert (output_error(weight, hessian, other) >= best - 1e-5 * best).all()


def test_kmeans_finds_clusters_and_weighs_points() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = centres.repeat(20, 1) + 0.01 * torch.randn(60, 2, generator=generator())
    actual, nearest = weighted_kmeans(points, torch.ones(60, 2), 3, generator())
    torch.testing.assert_close(actual[nearest], points, rtol=0, atol=0.1)
    pair = torch.tensor([[0.0], [1.0]])
    weighed, _ = weighted_kmeans(pair, torch.tensor([[1.0], [3.0]]), 1, generator())
    assert float(weighed) == pytest.approx(0.75)


def test_each_codebook_and_each_part_of_the_fit_lower_the_error() -> None:
    weight, hessian = layer(64, 32)
    single = residual_kmeans(weight, hessian.diagonal(), Codebooks(1, 4, 4), generator())
    two = residual_kmeans(weight, hessian.diagonal(), Codebooks(2, 4, 4), generator())
    fitted = fit_codebooks(weight, hessian, Codebooks(2, 4, 4), generator())
    errors = [float(output_error(weight, hessian, additive).sum()) for additive in (single, two, fitted)]
    assert errors[2] < 0.7 * errors[1] < errors[1] < errors[0]


def test_more_entries_than_points_and_rows_of_zeros_stay_finite() -> None:
    weight = torch.zeros(2, 8)
    weight[1] = torch.arange(8.0)
    fitted = fit_codebooks(weight, None, Codebooks(1, 6, 4), generator())
    torch.testing.assert_close(fitted.value(), weight, rtol=1e-4, atol=1e-4)


def test_what_was_tuned_is_what_is_stored_and_taken_up() -> None:
    weight, hessian = layer(16, 16)
    layout = Codebooks(2, 3, 4)
    tuned = CodebookWeight("w", fit_codebooks(weight, hessian, layout, generator()), layout)
    (tuned.fake_quantized() - weight).square().sum().backward()
    tuned.step(0.1)
    values = tuned.fake_quantized().detach().numpy()
    stored = tuned.result()
    np.testing.assert_allclose(stored.dequantize(), values, rtol=3e-7)
    again = CodebookWeight.resumed("w", stored, tuned.offsets(), layout)
    np.testing.assert_array_equal(again.fake_quantized().detach().numpy(), values)
    assert stored.size_bytes == 16 * 4 * 2 * 3 // 8 + 2 * 8 * 4 * 2 + 16 * 2
