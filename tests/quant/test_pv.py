"""PV-Tuning's discrete step: nearer to the point and never further, few at a time, integers by one."""

from __future__ import annotations

import pytest
import torch

from ovround.quant.codebooks.fit import fit_codebooks
from ovround.quant.codebooks.tuned_weight import CodebookWeight
from ovround.quant.integers.initial_grid import from_extremes
from ovround.quant.integers.tuned_weight import LearnedScaleWeight
from ovround.quant.passes.pv import Changes, DiscreteSteps, PVUpdate, move
from ovround.tensors.scheme import Codebooks, QuantScheme

Weight = LearnedScaleWeight | CodebookWeight
KINDS = ["codebooks", "symmetric", "asymmetric"]
ROWS, COLUMNS = 24, 32


def make(kind: str, seed: int = 0) -> Weight:
    matrix = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))
    if kind == "codebooks":
        layout = Codebooks(2, 3, 4)
        return CodebookWeight("w", fit_codebooks(matrix, None, layout, torch.Generator().manual_seed(seed)), layout)
    scheme = QuantScheme(3, 16, kind == "symmetric")
    weight = LearnedScaleWeight("w", from_extremes(matrix, scheme), matrix.shape, scheme)
    with torch.no_grad():
        weight.latent.round_()
    return weight


def value(weight: Weight) -> torch.Tensor:
    return weight.fake_quantized().detach().clone()


def codes(weight: Weight) -> torch.Tensor:
    return weight.codes.clone() if isinstance(weight, CodebookWeight) else weight.latent.detach().round()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("length", [0.05, 0.7, 5.0])
def test_the_linearised_objective_never_grows(kind: str, share: float, length: float) -> None:
    """`<g, d> + |d|^2 / 2` for a step d = W' - W: its minimum over all weights is at W - g."""
    weight = make(kind)
    for seed in range(5):
        before = value(weight)
        gradient = length * torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 10))
        changed = move(weight, before - gradient, share)
        step = value(weight) - before
        objective = float((gradient * step).sum() + step.square().sum() / 2)
        assert objective <= 1e-4
        assert (objective < 0) == (changed > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_than_the_share_changes_and_the_furthest_do(kind: str) -> None:
    weight = make(kind)
    before, old = value(weight), codes(weight)
    point = before.clone()
    point[3, 4:8] += 4.0  # a vector, and four levels, that want to go far
    move(weight, point, 4 / (ROWS * COLUMNS) if kind != "codebooks" else 1 / (ROWS * COLUMNS // 4))
    moved = (value(weight) != before).nonzero()
    assert len(moved)
    assert set(moved[:, 0].tolist()) == {3}
    assert set(moved[:, 1].tolist()) <= {4, 5, 6, 7}
    if kind != "codebooks":
        assert (codes(weight) - old).abs().max() == 1  # by one, however far the point


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_nearby_changes_nothing(kind: str) -> None:
    weight = make(kind)
    before = value(weight)
    assert move(weight, before + 1e-4, 1.0) == 0
    assert torch.equal(value(weight), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("straight_through", [True, False])
def test_steps_follow_a_gradient_to_another_weight(kind: str, straight_through: bool) -> None:
    """The loss is the distance to another point, not far from where the weight is."""
    weight, wanted = make(kind), make(kind, seed=1)
    target = value(wanted) * 0.3 + value(weight) * 0.7
    first = float((value(weight) - target).square().sum())
    steps = DiscreteSteps([weight], Changes(0.05, straight_through))
    for number in range(40):
        steps.step([value(weight) - target], 2 * (1 - number / 40) / 40, 1 - number / 40)
    assert float((value(weight) - target).square().sum()) < 0.9 * first


def test_a_step_that_changed_nothing_is_not_reverted() -> None:
    """Its float copies would otherwise be drawn back again and again, and never reach another level."""
    weight = make("symmetric")
    steps = DiscreteSteps([weight], Changes(0.01, straight_through=True))
    grad = torch.ones(ROWS, COLUMNS)
    assert steps._copies is not None
    before, begun, travelled = value(weight), steps._copies[0].clone(), []
    for _ in range(3):
        steps.step([grad], 0.1, 1.0)
        steps.accept_or_revert(False)
        assert torch.equal(value(weight), before)
        travelled.append(float((steps._copies[0] - begun).abs().min()))
    assert travelled[2] == pytest.approx(3 * travelled[0], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [0.5, 2.0], ids=["lower", "higher"])
def test_an_update_is_kept_only_if_it_lowers_the_loss_on_other_samples(kind: str, after: float) -> None:
    weight = make(kind)
    weight.fake_quantized().sum().backward()
    before, losses = value(weight), iter([1.0, after])
    update = PVUpdate([weight], Changes(0.2, straight_through=False))
    update.step([before - value(make(kind, seed=1))], 0.1, 1.0, lambda: next(losses))
    assert torch.equal(value(weight), before) == (after > 1)
    assert all(parameter.grad is None for parameter in weight.parameters)
