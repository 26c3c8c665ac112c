"""The time to tune by the default recipe, as `--time` adds it up, with costs told from the model's sizes in place of a measurement.

The costs are operations a weight, from those that `--time` measured of SmolLM2 135M on one core, compared with those of Gemma 3
270M and Qwen2.5 0.5B; docs/dev/log/measuring.md has the figures.
"""

from __future__ import annotations

import math
import os

from ovround.conversion.tuning import end_to_end_steps
from ovround.measure.fit.machine import MachineSpeed
from ovround.models.decoder import Decoder
from ovround.options.convert_options import ConvertOptions, resolved_recipe
from ovround.quant.calibration.samples import DEFAULT_LENGTH
from ovround.quant.plan import Plan
from ovround.quant.tuning_costs import Costs, Line, Work
from ovround.runtime.devices import available_cores

# Operations a weight of a block, or of the head: once, and for each token.
_START, _START_TOKEN = 50_000, 4.0
_STEP, _STEP_TOKEN = 900, 5.3
_COMPARE_TOKEN, _ADVANCE_TOKEN = 1.4, 1.8
_HEAD_TOKEN = 8.0  # both models' head, and the gradient
_FURTHER_CORE = 0.5  # of the first one's work: torch does small operations on one core. Not measured


def tune_seconds(decoder: Decoder, plan: Plan, options: ConvertOptions, speed: MachineSpeed) -> float:
    """About the seconds to tune a model where nothing else runs; 0 where the recipe tunes nothing."""
    recipe = resolved_recipe(options)
    if not recipe.iters:
        return 0.0
    length = min(DEFAULT_LENGTH, decoder.config.max_position_embeddings)
    steps = end_to_end_steps(options, decoder, plan)
    work = Work(recipe.iters, recipe.nsamples, length, recipe.batch_size, steps)
    return tuning_costs(decoder, speed.core_operations).seconds(work) / (1 + _FURTHER_CORE * (_threads() - 1))


def tuning_costs(decoder: Decoder, operations: float) -> Costs:
    """The costs of a mean block by a core of so many operations a second.

    Every weight takes part in a start and in a step's update; in products those that a token chooses.
    """
    layers, shares = decoder.config.num_hidden_layers, decoder.token_shares()
    every = active = 0.0
    for layer in range(layers):
        shapes = decoder.tensors(layer)
        for name in decoder.linears(layer):
            count = math.prod(shapes[f"{name}.weight"])
            every, active = every + count, active + count * shares.get(name, 1.0)
    every_s, active_s = every / layers / operations, active / layers / operations
    head_s = decoder.config.vocab_size * decoder.config.hidden_size / operations
    step = Line(_STEP * every_s, _STEP_TOKEN * active_s)
    return Costs(
        start=Line(_START * every_s, _START_TOKEN * active_s),
        step=step,
        plain_step=step,
        compare=Line(0.0, _COMPARE_TOKEN * active_s),
        advance=Line(0.0, _ADVANCE_TOKEN * active_s),
        head=Line(0.0, _HEAD_TOKEN * head_s),
        groups=layers,
    )


def _threads() -> int:
    """As many as torch uses, about."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(stated), available_cores()) if stated.isdecimal() and int(stated) else available_cores()
