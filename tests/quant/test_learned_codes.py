"""Learned codes are the nearest to latent points, which follow the gradient as if nothing were rounded."""

from __future__ import annotations

import pytest
import torch

from ovround.quant.codebooks.fit import fit_codebooks
from ovround.quant.codebooks.tuned_weight import OFFSET_STEPS, CodebookWeight
from ovround.tensors.scheme import Codebooks

LAYOUT = Codebooks(1, 4, 4)


def matrix(seed: int = 0) -> torch.Tensor:
    return torch.randn(32, 16, generator=torch.Generator().manual_seed(seed))


def hessian(columns: int = 16) -> torch.Tensor:
    inputs = torch.randn(64, columns, generator=torch.Generator().manual_seed(9)) @ (torch.eye(columns) + 0.3)
    return inputs.T @ inputs


def make(layout: Codebooks = LAYOUT, *, learn_codes: bool = True) -> CodebookWeight:
    fitted = fit_codebooks(matrix(), hessian(), layout, torch.Generator().manual_seed(0))
    return CodebookWeight("w", fitted, layout, learn_codes)


def error(weight: CodebookWeight) -> torch.Tensor:
    left = matrix() - weight.fake_quantized()
    return ((left @ hessian()) * left).sum()


def test_the_gradient_passes_the_codes() -> None:
    weight = make()
    grad = matrix(seed=5)
    (weight.fake_quantized() * grad).sum().backward()
    assert weight.offset is not None
    torch.testing.assert_close(weight.offset.grad, grad * weight.scales())


def test_the_nearest_entry_is_taken_wherever_a_point_goes() -> None:
    weight = make()
    for seed in range(4):
        assert weight.offset is not None
        weight.offset.grad = matrix(seed)
        points = (weight.latent() / weight.scales()).detach() - 0.4 * weight.unit * matrix(seed).sign()
        weight.move_codes(0.4)
        torch.testing.assert_close((weight.latent() / weight.scales()).detach(), points)
        distances = torch.cdist(points.view(-1, 4), weight.entries()[0].detach())
        torch.testing.assert_close(
            distances.gather(1, weight.codes.view(-1, 1)).squeeze(1), distances.amin(1), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("layout", [LAYOUT, Codebooks(2, 3, 4)], ids=str)
def test_tuning_follows_a_target_further_than_fixed_codes_can(layout: Codebooks) -> None:
    target, reached = matrix() + 0.8 * matrix(1), []
    for learn_codes in (True, False):
        weight = make(layout, learn_codes=learn_codes)
        for step in range(60):
            (weight.fake_quantized() - target).square().sum().backward()
            weight.step((1 - step / 60) / 60)
        reached.append(float((weight.fake_quantized() - target).detach().square().sum()))
    assert reached[0] < 0.97 * reached[1]


def test_leaning_changes_no_code_and_points_to_a_lower_error() -> None:
    weight = make()
    before = weight.codes.clone()
    weight.init_offsets(matrix(), hessian())
    assert torch.equal(weight.codes, before)
    assert weight.offset is not None
    error(weight).backward()
    assert float((weight.offset.grad * weight.offset.detach()).sum()) < 0  # type: ignore[operator]
    weight.move_codes(0.0)
    changed = (weight.codes != before).float().mean()
    assert float(changed) < 0.2  # points that were held at the edge of their entry's region


def test_points_are_taken_up_and_moving_entries_change_no_code() -> None:
    weight = make()
    weight.init_offsets(matrix(), hessian())
    again = CodebookWeight.resumed("w", weight.result(), weight.offsets(), LAYOUT)
    torch.testing.assert_close(
        again.latent(), weight.latent(), rtol=0, atol=float(weight.scales().detach().max()) * weight.unit / OFFSET_STEPS
    )
    before = weight.codes.clone()
    with torch.no_grad():
        weight.books[0].mul_(1.5)
    assert weight.offset is not None
    weight.offset.grad = torch.zeros_like(weight.offset)
    weight.move_codes(1.0)
    assert torch.equal(weight.codes, before)


def test_large_codes_and_fixed_ones_stand() -> None:
    for weight in (make(Codebooks(1, 11, 4)), make(learn_codes=False)):
        before = weight.codes.clone()
        error(weight).backward()
        weight.step(1.0)
        assert weight.offset is None
        assert weight.offsets() is None
        assert torch.equal(weight.codes, before)
