"""The best parameters so far: the ones with the lowest loss come back, the start among them."""

from __future__ import annotations

import pytest
import torch

from ovround.quant.passes.best_snapshot import BestSnapshot
from ovround.quant.passes.candidates import CANDIDATES, is_candidate


@pytest.mark.parametrize(("losses", "best"), [([3.0, 1.0, 2.0], 2), ([6.0, 5.0], 0), ([4.0, 4.0], 1), ([], 0)], ids=str)
def test_restoring_gives_the_tensors_of_the_lowest_loss(losses: list[float], best: int) -> None:
    """The start has the loss 5 and the value 0; an equal loss does not replace an earlier one."""
    values, codes = torch.zeros(3, requires_grad=True), torch.zeros(2, dtype=torch.int64)
    snapshot = BestSnapshot((values, codes), 5.0)
    for number, loss in enumerate(losses):
        with torch.no_grad():
            values.fill_(number + 1)
            codes.fill_(number + 1)
        snapshot.offer(loss)
    snapshot.restore()
    assert values.tolist() == [best] * 3
    assert codes.tolist() == [best] * 2
    assert snapshot.loss == min([5.0, *losses])


@pytest.mark.parametrize("steps", [1, 7, 10, 99, 100, 1000])
def test_the_last_step_is_a_candidate_and_about_one_in_ten(steps: int) -> None:
    candidates = [done for done in range(1, steps + 1) if is_candidate(done, steps)]
    assert candidates[-1] == steps
    assert len(candidates) <= 2 * CANDIDATES
    assert len(candidates) >= min(steps, CANDIDATES)
