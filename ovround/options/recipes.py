"""Recipes: how long a conversion is tuned, by a name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Tuning steps a block, calibration samples, samples a step, end-to-end steps for each step of a block; `rtn` needs no text."""

    iters: int
    nsamples: int
    batch_size: int
    end_to_end: float


RECIPES = {
    "rtn": Recipe(0, 0, 1, 0),
    "light": Recipe(50, 128, 8, 0),
    "default": Recipe(200, 128, 4, 0.5),
    "best": Recipe(1000, 512, 8, 1),
}
DEFAULT_RECIPE = "default"
CODES_BATCH_SIZE = 8  # at least, where codes are learned or PV-Tuning moves levels: noise must not choose what changes
