"""The discrete step of PV-Tuning (arXiv 2405.14852): few codes at a time, and those that want to change most.

A step along the gradient gives a point that no codes stand for. Taking the nearest codes everywhere either changes nothing, when
the step is small, or far too much at once. So the step is large, and only the share of vectors, or of single weights on an
integer grid, that lie furthest from it are coded anew: the loss is smooth enough along so few. The point is

    straight through   a float copy of the weights that gradients of the coded model move, step after step
    otherwise          the coded weights less one step

Directions are running means of the gradient over the root of its mean square in the whole weight, in units of the weight's
scale: with batches of some thousand tokens a square for each weight, as in Adam, would give the noise of unimportant weights as
much say as the rest. On codebooks
the vectors chosen take the nearest sum of entries, the old codes among the candidates; on an integer grid a level moves by one.
Neither increases the distance to the point, which is the linearised objective: tests hold it to that.

That the loss itself falls is checked too, on windows of the calibration text that the gradient did not see: a step that raises it
is taken back, and the next changes half as many. Small batches need that: most of what a gradient of some hundred tokens asks for
is noise, and codes that follow it do harm (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ovround.quant.codebooks.kmeans import Additive
from ovround.quant.codebooks.search import BEAM, search_codes
from ovround.quant.codebooks.tuned_weight import CodebookWeight
from ovround.quant.integers.tuned_weight import LearnedScaleWeight

BUFFER_TRAVEL = 0.5  # scales that the float copy of a weight may move over the whole pass
PLAIN_STEP = 1.0  # scales that the first step moves where there is no copy; the last ones move nothing
_BETA, _SQUARE_BETA = 0.9, 0.95
_GROWTH, _SHRINKAGE = 1.5, 0.5  # of the share that a step may change, behind one that was kept or taken back
_LEAST = 1e-3  # of the share asked for


@dataclass(frozen=True, slots=True)
class Changes:
    """How the discrete step is made: the share of vectors or levels that may change at once, and whether a float copy is kept."""

    share: float
    straight_through: bool


class DiscreteSteps:
    """The discrete step for each of `weights`, with what it remembers of them: 4 bytes a weight, 8 with the float copy."""

    def __init__(self, weights: Sequence[LearnedScaleWeight | CodebookWeight], changes: Changes) -> None:
        self._weights, self._changes = weights, changes
        self._share = changes.share
        self._before: list[torch.Tensor] = []
        with torch.no_grad():
            values = [_latent(weight) if changes.straight_through else weight.fake_quantized() for weight in weights]
        self._means = [torch.zeros_like(value) for value in values]
        self._squares = [0.0 for _ in values]
        self._copies = values if changes.straight_through else None
        self._count = 0
        self._changed = 0

    @torch.no_grad()
    def step(self, grads: Sequence[torch.Tensor], rate: float, left: float) -> None:
        """One step along `grads` `[N, K]`, one a weight; `rate` sums to 1 over all steps, `left` falls from 1 to 0."""
        self._count += 1
        self._changed = 0
        self._before = [_codes(weight).detach().clone() for weight in self._weights]
        for number, (weight, grad, mean) in enumerate(zip(self._weights, grads, self._means, strict=True)):
            mean.mul_(_BETA).add_(grad, alpha=1 - _BETA)
            self._squares[number] += (1 - _SQUARE_BETA) * (float(grad.square().mean()) - self._squares[number])
            root = (self._squares[number] / (1 - _SQUARE_BETA**self._count)) ** 0.5
            if root == 0:
                continue
            direction = mean / (root * (1 - _BETA**self._count))
            if self._copies is None:
                point = weight.fake_quantized() - direction.mul_(sizes(weight)).mul_(PLAIN_STEP * left)
            else:
                point = self._copies[number].sub_(direction.mul_(sizes(weight)), alpha=BUFFER_TRAVEL * rate)
            self._changed += move(weight, point, self._share)

    @torch.no_grad()
    def accept_or_revert(self, better: bool) -> None:
        """Keep the last step, or take it back, the float copy half of the way too; one that changed nothing has nothing to accept."""
        if not self._changed:
            return
        asked = self._changes.share
        if better:
            self._share = min(asked, self._share * _GROWTH)
            return
        self._share = max(asked * _LEAST, self._share * _SHRINKAGE)
        for number, (weight, before) in enumerate(zip(self._weights, self._before, strict=True)):
            _codes(weight).copy_(before)
            if self._copies is not None:
                self._copies[number].lerp_(weight.fake_quantized(), 0.5)


def _codes(weight: LearnedScaleWeight | CodebookWeight) -> torch.Tensor:
    return weight.codes if isinstance(weight, CodebookWeight) else weight.latent


def _latent(weight: LearnedScaleWeight | CodebookWeight) -> torch.Tensor:
    """Where the float copy begins: at the latent levels, which say what was close to changing; codes likewise."""
    if isinstance(weight, CodebookWeight):
        return weight.latent()
    return (weight.latent * weight.grid()[0]).view(weight.shape)


def sizes(weight: LearnedScaleWeight | CodebookWeight) -> torch.Tensor:
    """What a step is measured in: the scale of each weight, `[N, K]` or `[N, 1]`."""
    if isinstance(weight, CodebookWeight):
        return weight.scales().detach()
    scale = weight.grid()[0].detach().abs()
    return scale.expand_as(weight.latent).reshape(weight.shape)


def move(weight: LearnedScaleWeight | CodebookWeight, point: torch.Tensor, share: float) -> int:
    """Bring `weight` nearer to `point` `[N, K]` by at most a `share` of its codes; how many changed."""
    if isinstance(weight, CodebookWeight):
        return _recode(weight, point, share)
    return _move_levels(weight, point, share)


@torch.no_grad()
def _recode(weight: CodebookWeight, point: torch.Tensor, share: float) -> int:
    size = weight.layout.vector_size
    entries, scales = torch.stack(weight.entries()), weight.scales().squeeze(1)
    gaps = (point - Additive(weight.codes, entries, scales).value()).view(len(point), -1, size).square().sum(-1)
    furthest = gaps.flatten().topk(_count(share, gaps.numel())).indices
    rows, vectors = furthest // gaps.shape[1], furthest % gaps.shape[1]
    chosen = Additive(weight.codes[rows, vectors][:, None], entries, scales[rows])
    wanted = point.view(len(point), -1, size)[rows, vectors]
    search_codes(wanted, torch.eye(size, device=point.device), chosen, BEAM)
    changed = int((weight.codes[rows, vectors] != chosen.codes[:, 0]).any(-1).sum())
    weight.codes[rows, vectors] = chosen.codes[:, 0]
    return changed


@torch.no_grad()
def _move_levels(weight: LearnedScaleWeight, point: torch.Tensor, share: float) -> int:
    scale, zero = weight.grid()
    top = float((1 << weight.scheme.bits) - 1)
    level = weight.latent.round().add_(zero).clamp_(0, top)
    gap = (point.view_as(level) / scale).sub_(level - zero)  # in levels
    step = gap.sign()
    wanting = (gap.abs() > 0.5) & (level + step >= 0) & (level + step <= top)
    count = min(_count(share, gap.numel()), int(wanting.sum()))
    furthest = torch.where(wanting, (gap * scale).abs(), -1).flatten().topk(count).indices
    moved = level.sub_(zero).flatten()
    moved[furthest] += step.flatten()[furthest]
    weight.latent.copy_(moved.view_as(weight.latent))
    return count


def _count(share: float, all_of_them: int) -> int:
    return min(all_of_them, max(1, round(share * all_of_them)))
