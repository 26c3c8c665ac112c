"""How levels and codes change in a step of the model pass: a strategy that the pass is given.

`SignUpdate` moves latent levels by the sign of their gradient, most of them by so little that they never change: PV-Tuning
(arXiv 2405.14852) shows that discrete weights can follow only few changes at a time. `pv.PVUpdate` makes PV-Tuning's own
discrete step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from ovround.quant.codebooks.tuned_weight import CodebookWeight
from ovround.quant.integers.tuned_weight import LearnedScaleWeight

TunableWeight = LearnedScaleWeight | CodebookWeight

# Levels that a latent level may move at most over the whole pass. At 4 bits there is little left to gain, and levels that
# flip for the noise of a batch soon undo it.
LATENT_TRAVEL = {2: 0.03, 3: 0.02, 4: 0.01, 8: 0.01}
CODE_TRAVEL = 0.1  # units that an offset of codes may move, likewise


class LevelUpdate(Protocol):
    """Changes the levels or codes of the weights that it was made for."""

    needs_gradients: bool
    """Whether `step` takes the gradients of the de-quantised weights, summed over all processes."""

    def step(self, gradients: Sequence[torch.Tensor], rate: float, left: float, probe: Callable[[], float]) -> None:
        """One step, which forgets the gradients of the weights' parameters.

        `gradients` `[N, K]` are one a weight, or none at all. `rate` sums to 1 over all steps, `left` falls from 1 to 0.
        `probe` gives the loss of the weights as they are, on samples that the gradients did not see.
        """
        ...


class SignUpdate:
    """Moves each latent level, or offset of codes, by the sign of its gradient."""

    needs_gradients = False

    def __init__(self, weights: Sequence[TunableWeight]) -> None:
        self._weights = weights

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor], rate: float, left: float, probe: Callable[[], float]) -> None:
        """See `LevelUpdate`."""
        for weight in self._weights:
            if isinstance(weight, CodebookWeight):
                weight.move_codes(CODE_TRAVEL * rate)
                continue
            if weight.latent.grad is not None:
                weight.latent.sub_(weight.latent.grad.sign_(), alpha=LATENT_TRAVEL[weight.scheme.bits] * rate)
                weight.latent.grad = None
            weight.zero_shift.grad = None
