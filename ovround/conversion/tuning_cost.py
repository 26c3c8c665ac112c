"""About how long a conversion's tuning takes on this machine: its multiplications over the rate of one product, measured now."""

from __future__ import annotations

import math
import time

from ovround.conversion.tuning import end_to_end_steps
from ovround.models.decoder import EXPERTS, Decoder
from ovround.options.convert_options import ConvertOptions, resolved_recipe
from ovround.quant.plan import Plan

LONGEST_DEFAULT = 2048  # tokens of a sample where none are stated, as in calibration
# A step multiplies forward, and backward by weights and by activations; the samples pass each block in float, quantised, and
# once more for the statistics that the first levels are found with.
STEP_PRODUCTS, SAMPLE_PRODUCTS, TEACHER_PRODUCTS = 3, 3, 1
SHARE = 0.6  # of the rate of one large product that tuning reaches
_TOKENS, _WIDTH, _REPEATS = 1024, 1024, 3


def tuning_s(decoder: Decoder, plan: Plan, options: ConvertOptions) -> float | None:
    """Seconds of a tuned conversion with these options; None where that cannot be said."""
    count = tuning_multiplications(decoder, plan, options, end_to_end_steps(options, decoder, plan))
    return None if count is None else count / (SHARE * multiplications_per_s())


def tuning_multiplications(decoder: Decoder, plan: Plan, options: ConvertOptions, end_to_end: int) -> float | None:
    """Multiplications of all passes with these options; None for a mixture of experts, whose share of use is not known before."""
    config, recipe = decoder.config, resolved_recipe(options)
    layers = range(config.num_hidden_layers)
    names = [f"{name}.weight" for layer in layers for name in decoder.linears(layer) if plan.get(name) is not None]
    if any(f".{EXPERTS}." in name for name in names):
        return None
    shapes = {name: shape for layer in layers for name, shape in decoder.tensors(layer).items()}
    length = min(LONGEST_DEFAULT, config.max_position_embeddings) if options.seqlen is None else options.seqlen
    attention = 2 * len(layers) * length * config.hidden_size
    each = sum(math.prod(shapes[name]) for name in names) + attention
    step, samples = recipe.batch_size * length, recipe.nsamples * length
    head = config.vocab_size * config.hidden_size
    blocks = recipe.iters * step * STEP_PRODUCTS * each + samples * SAMPLE_PRODUCTS * each
    return blocks + end_to_end * step * (STEP_PRODUCTS + TEACHER_PRODUCTS) * (each + head)


def multiplications_per_s() -> float:
    """The rate of a product of float32 matrices by torch, the best of a few."""
    import torch

    left, right = torch.rand(_TOKENS, _WIDTH), torch.rand(_WIDTH, _WIDTH)
    best = math.inf
    for _ in range(_REPEATS + 1):  # the first one warms up
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return left.numel() * _WIDTH / best
