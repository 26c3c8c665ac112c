"""The lowest loss within a budget: one choice from each class, solved exactly (multiple-choice knapsack).

    minimise sum loss   subject to   sum cost <= budget,   one choice from each class

Dynamic programming over the undominated (cost, loss) pairs, with the bounds of Pisinger, "A minimal algorithm for the
multiple-choice knapsack problem" (EJOR 83, 1995): a partial solution is dropped when the linear relaxation of the classes
that are left cannot bring it below the best whole solution known. Classes whose choice is most certain come first, so few
partial solutions are kept at any time. It needs only numpy: SciPy's MILP solver would be a dependency of 100 MB.

Everything is computed in integers, so that no comparison rounds: losses are scaled to 40 bits of the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOSS_BITS = 40
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a class: its cost and its loss, neither negative."""

    cost: int
    loss: float

    def __post_init__(self) -> None:
        if self.cost < 0 or not 0 <= self.loss < math.inf:
            raise ValueError(f"a choice of cost {self.cost} and loss {self.loss}")


def allocate(classes: Sequence[Sequence[Choice]], budget: int) -> tuple[int, ...]:
    """The index of the choice in each class, with the lowest sum of losses within `budget`; deterministic.

    Losses are distinguished down to 2^-40 of the largest. Raises ValueError when not even the cheapest choices fit.
    """
    if not classes:
        return ()
    lowest = sum(min(choice.cost for choice in choices) for choices in classes)
    if lowest > budget:
        raise ValueError(f"the cheapest choices cost {lowest}; the budget is {budget}")
    return _Search(classes, budget - lowest).search()


@dataclass(frozen=True, slots=True, eq=False)
class _Class:
    """The undominated choices of a class by rising cost, the cheapest at cost 0; `hull` are those of its lower convex hull."""

    indices: tuple[int, ...]
    costs: Ints
    losses: Ints
    hull: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Relaxation:
    """The linear relaxation of some classes: steps along their hulls, steepest first; `costs`, `losses` after 0, 1, ... steps."""

    costs: Ints
    losses: Ints
    steps: Ints  # rows of _Search.steps

    def bound(self, room: Ints) -> Ints:
        """A lower bound `[n]` on the loss of any choice within `room` `[n]`."""
        at = self.completed(room)
        following = np.minimum(at + 1, len(self.costs) - 1)
        width = np.maximum(self.costs[following] - self.costs[at], 1)
        gain = (self.losses[at] - self.losses[following]) * ((room - self.costs[at]) / width)
        # whole losses gain whole numbers; three roundings of float64 lift the gain by less than 1e-15 of it
        bounds: Ints = self.losses[at] - np.floor(gain * (1 + 1e-15)).astype(np.int64)
        return bounds

    def completed(self, room: Ints) -> Ints:
        """The number of whole steps that fit, `[n]`."""
        steps: Ints = np.searchsorted(self.costs, room, side="right").astype(np.int64) - 1
        return steps


class _Search:
    def __init__(self, classes: Sequence[Sequence[Choice]], room: int) -> None:
        top = max(choice.loss for choices in classes for choice in choices)
        exponent = LOSS_BITS - math.frexp(top)[1]
        self._room = room
        self._classes = [_prepared(choices, exponent) for choices in classes]
        self._steps = self._sorted_steps()
        self._order = self._by_certainty()
        self._position = np.empty(len(classes), np.int64)  # of each class in the order
        self._position[self._order] = np.arange(len(classes))
        bases = [int(self._classes[number].losses[0]) for number in self._order]
        self._bases = np.cumsum([0, *reversed(bases)])[
            ::-1
        ]  # the cheapest choices' losses, of all classes from a stage on

    def search(self) -> tuple[int, ...]:
        costs, losses = np.zeros(1, np.int64), np.zeros(1, np.int64)
        back: list[tuple[Ints, Ints]] = []  # of each stage: the partial solution before, and the choice made
        best, whole = None, (0, 0, 0)  # the best whole solution: stage, partial solution, steps that complete it
        for stage in range(len(self._order) + 1):
            if stage:
                costs, losses, came = _extended(costs, losses, self._classes[self._order[stage - 1]], self._room)
                back.append(came)
            rest = self._relaxation(stage)
            room = self._room - costs
            steps = rest.completed(room)
            totals = losses + rest.losses[steps]
            first = int(totals.argmin())
            if best is None or totals[first] < best:
                best, whole = int(totals[first]), (stage, first, int(steps[first]))
            alive = losses + rest.bound(room) < best
            if stage == whole[0]:
                alive[first] = True
            kept = np.flatnonzero(alive)
            if stage == whole[0]:
                whole = (stage, int(np.searchsorted(kept, first)), whole[2])
            if stage:
                back[-1] = (back[-1][0][kept], back[-1][1][kept])
            costs, losses = costs[kept], losses[kept]
            if not len(costs):
                break
        return self._chosen(back, *whole)

    def _chosen(self, back: list[tuple[Ints, Ints]], stage: int, partial: int, steps: int) -> tuple[int, ...]:
        chosen = [0] * len(self._classes)
        for step in self._relaxation(stage).steps[:steps]:
            owner, choice = self._steps[step, :2]
            chosen[owner] = int(choice)
        for earlier in range(stage - 1, -1, -1):
            before, choice = back[earlier]
            chosen[self._order[earlier]] = int(choice[partial])
            partial = int(before[partial])
        return tuple(options.indices[choice] for options, choice in zip(self._classes, chosen, strict=True))

    def _sorted_steps(self) -> Ints:
        """Each step along a hull: class, choice reached, cost, loss gained, `[n, 4]`; the most loss for its cost first."""
        steps = [
            (number, to, options.costs[to] - options.costs[at], options.losses[at] - options.losses[to])
            for number, options in enumerate(self._classes)
            for at, to in zip(options.hull, options.hull[1:], strict=False)
        ]
        rows = np.array(steps, np.int64).reshape(-1, 4)
        # correctly rounded division keeps order, and a stable sort keeps equal steps of a class in theirs
        ordered: Ints = rows[np.argsort(-(rows[:, 3] / rows[:, 2]), kind="stable")]
        return ordered

    def _by_certainty(self) -> list[int]:
        """Classes by the loss of the second-best choice at the relaxation's exchange rate, the most certain first."""
        taken = int(np.searchsorted(np.cumsum(self._steps[:, 2]), self._room, side="right"))
        broken = self._steps[min(taken, len(self._steps) - 1)] if len(self._steps) else None
        rate = 0.0 if broken is None else float(broken[3] / broken[2])
        margins = []
        for options in self._classes:
            values = np.sort(options.losses + rate * options.costs)
            margins.append(float(values[1] - values[0]) if len(values) > 1 else math.inf)
        return sorted(range(len(margins)), key=lambda number: (-margins[number], number))

    def _relaxation(self, stage: int) -> _Relaxation:
        """Of the classes from `stage` on."""
        rows = np.flatnonzero(self._position[self._steps[:, 0]] >= stage)
        costs = np.concatenate([[0], np.cumsum(self._steps[rows, 2])])
        losses = self._bases[stage] - np.concatenate([[0], np.cumsum(self._steps[rows, 3])])
        return _Relaxation(costs.astype(np.int64), losses.astype(np.int64), rows)


def _prepared(choices: Sequence[Choice], exponent: int) -> _Class:
    losses = [round(math.ldexp(choice.loss, exponent)) for choice in choices]
    kept: list[int] = []
    for index in sorted(range(len(choices)), key=lambda index: (choices[index].cost, losses[index], index)):
        if not kept or losses[index] < losses[kept[-1]]:
            kept.append(index)
    cheapest = choices[kept[0]].cost
    costs, undominated = [choices[index].cost - cheapest for index in kept], [losses[index] for index in kept]
    return _Class(tuple(kept), np.array(costs, np.int64), np.array(undominated, np.int64), _hull(costs, undominated))


def _hull(costs: Sequence[int], losses: Sequence[int]) -> tuple[int, ...]:
    """The points of the lower convex hull; costs rise and losses fall."""
    hull: list[int] = []
    for point in range(len(costs)):
        while len(hull) > 1:
            a, b = hull[-2:]
            turn = (costs[b] - costs[a]) * (losses[point] - losses[a]) - (losses[b] - losses[a]) * (
                costs[point] - costs[a]
            )
            if turn > 0:
                break
            hull.pop()
        hull.append(point)
    return tuple(hull)


def _extended(costs: Ints, losses: Ints, added: _Class, room: int) -> tuple[Ints, Ints, tuple[Ints, Ints]]:
    """Each partial solution with each choice of the `added` class, if within `room` and not dominated."""
    all_costs = (costs[:, None] + added.costs).ravel()
    all_losses = (losses[:, None] + added.losses).ravel()
    fitting = np.flatnonzero(all_costs <= room)
    order = fitting[np.lexsort((all_losses[fitting], all_costs[fitting]))]
    least = np.minimum.accumulate(all_losses[order])
    better = np.ones(len(order), np.bool_)
    better[1:] = all_losses[order[1:]] < least[:-1]
    kept = order[better]
    before, choice = np.divmod(kept, len(added.costs))
    return all_costs[kept], all_losses[kept], (before, choice)
