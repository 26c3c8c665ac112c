"""The exact choice within a budget: against all combinations, at the limits, and at the size of a large model."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovround.quant.allocation.knapsack import LOSS_BITS, Choice, allocate

Classes = Sequence[Sequence[Choice]]


def brute_force(classes: Classes, budget: int) -> float:
    """The lowest loss of all combinations within the budget."""
    return min(
        sum(choice.loss for choice in combination)
        for combination in itertools.product(*classes)
        if sum(choice.cost for choice in combination) <= budget
    )


def cost(classes: Classes, chosen: Sequence[int]) -> int:
    return sum(choices[index].cost for choices, index in zip(classes, chosen, strict=True))


def loss(classes: Classes, chosen: Sequence[int]) -> float:
    return sum(choices[index].loss for choices, index in zip(classes, chosen, strict=True))


def span(classes: Classes) -> tuple[int, int]:
    """The lowest and the highest possible cost."""
    costs = [[choice.cost for choice in choices] for choices in classes]
    return sum(map(min, costs)), sum(map(max, costs))


def classes_of(
    costs: st.SearchStrategy[int], losses: st.SearchStrategy[float]
) -> st.SearchStrategy[list[list[Choice]]]:
    return st.lists(st.lists(st.builds(Choice, costs, losses), min_size=1, max_size=4), min_size=1, max_size=6)


@given(classes_of(st.integers(0, 12), st.integers(0, 12).map(float)), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_no_combination_is_better_where_ties_abound(classes: list[list[Choice]], share: float) -> None:
    lowest, highest = span(classes)
    budget = lowest + int(share * (highest - lowest))
    chosen = allocate(classes, budget)
    assert cost(classes, chosen) <= budget
    assert loss(classes, chosen) == brute_force(classes, budget)


@given(classes_of(st.integers(0, 10**12), st.floats(0, 1e6)), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_no_combination_is_better_at_any_scale(classes: list[list[Choice]], share: float) -> None:
    lowest, highest = span(classes)
    budget = lowest + int(share * (highest - lowest))
    chosen = allocate(classes, budget)
    assert cost(classes, chosen) <= budget
    top = max(choice.loss for choices in classes for choice in choices)
    resolution = len(classes) * top * 2.0 ** (1 - LOSS_BITS)  # losses are rounded to that many bits of the largest
    assert loss(classes, chosen) <= brute_force(classes, budget) + resolution + 1e-12 * top


def test_more_budget_never_loses_more() -> None:
    rng = np.random.default_rng(0)
    classes = [[Choice(bits * size, 4.0**-bits * size) for bits in (2, 3, 4, 8)] for size in rng.integers(1, 99, 12)]
    lowest, highest = span(classes)
    losses = [loss(classes, allocate(classes, budget)) for budget in range(lowest, highest + 1)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == sum(choices[-1].loss for choices in classes)


def test_the_edges() -> None:
    assert allocate([], 0) == ()
    assert allocate([[Choice(3, 1.0)]], 3) == (0,)
    assert allocate([[Choice(3, 1.0), Choice(3, 0.5), Choice(1, 2.0)]], 3) == (1,)
    assert allocate([[Choice(0, 0.0), Choice(0, 0.0)]], 0) == (0,)  # the first of equals
    with pytest.raises(ValueError, match="the cheapest choices cost 5; the budget is 4"):
        allocate([[Choice(2, 1.0), Choice(9, 0.0)], [Choice(3, 1.0)]], 4)


@pytest.mark.parametrize(("cost", "loss"), [(-1, 0.0), (0, -1.0), (0, float("nan")), (0, float("inf"))])
def test_a_choice_that_cannot_be_is_refused(cost: int, loss: float) -> None:
    with pytest.raises(ValueError, match="a choice of cost"):
        Choice(cost, loss)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_eighty_blocks_of_seven_layers_take_a_moment(share: float) -> None:
    rng = np.random.default_rng(1)
    shapes = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14336, 4096), (14336, 4096), (4096, 14336)]
    classes = []
    for rows, columns in shapes * 80:
        fragile = np.exp(rng.normal(0, 1.5))
        sizes = {bits: int(rows * columns * bits * (1 + 0.1 * rng.random())) for bits in (2, 3, 4, 8)}  # no two alike
        classes.append([Choice(size, float(fragile * 4.0**-bits * rows)) for bits, size in sizes.items()])
    lowest, highest = span(classes)
    start = time.process_time()
    chosen = allocate(classes, lowest + int(share * (highest - lowest)))
    assert time.process_time() - start < 5  # 0.3 s on an idle core
    assert chosen == allocate(classes, lowest + int(share * (highest - lowest)))
