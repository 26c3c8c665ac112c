"""How a conversion is tuned: recipes, None and the model's size resolved into `TuningSettings`, once."""

from __future__ import annotations

import math
from dataclasses import replace

from ovround.models.decoder import Decoder
from ovround.options.convert_options import ConvertOptions, resolved_recipe
from ovround.options.tuning_settings import FEW_BITS, TuningSettings
from ovround.quant.passes.compile_choice import choose
from ovround.quant.plan import Plan

END_TO_END_WEIGHTS = 120_000_000  # the largest model that recipes tune end to end: about 10 GB by estimate
_EVERY_WIDTH = 128  # bits: more than any weight or code has


def with_choices(options: ConvertOptions, device: str) -> ConvertOptions:
    """The options with the device and the codebooks that are used, as manifest and fingerprint record them."""
    return replace(options, device=device, codebooks=options.linear_codebooks)


def resolve(options: ConvertOptions, decoder: Decoder, plan: Plan, tokens: int) -> TuningSettings:
    """The settings of a conversion whose steps see so many `tokens` in each process, 0 where nothing is tuned.

    `options.device` is the device that is used. Raises UsageError or EngineError where steps cannot be compiled as asked.
    """
    recipe, tuning = resolved_recipe(options), options.tuning
    clipped = tuning.scales == "clipped"
    pv_steps = recipe.iters if tuning.pv_steps is None else tuning.pv_steps
    robust = {None: FEW_BITS, True: _EVERY_WIDTH, False: 0}[tuning.robust_loss]
    integers = options.linear_codebooks is None
    return TuningSettings(
        iters=recipe.iters,
        nsamples=recipe.nsamples,
        batch_size=recipe.batch_size,
        seed=options.seed,
        end_to_end_steps=end_to_end_steps(options, decoder, plan),
        pv_steps=pv_steps if options.pv else 0,
        pv_changes=tuning.pv_changes,
        straight_through=tuning.straight_through,
        initial_grid=tuning.initial_grid or ("extremes" if clipped else "descent"),
        optimizer=tuning.optimizer or ("sign" if clipped else "adam"),
        scales=tuning.scales,
        robust_loss_max_bits=robust,
        norms=tuning.norms,
        label_share=tuning.label_share,
        block_group_size=tuning.block_group_size,
        embeddings=tuning.embeddings,
        learn_codes=tuning.learn_codes,
        activation_engine=options.activation_engine,
        device=options.device,
        compile=choose(tuning.compile, options.device, decoder, tokens, recipe.iters, integers=integers),
    )


def end_to_end_steps(options: ConvertOptions, decoder: Decoder, plan: Plan) -> int:
    """Steps that are asked for, else the recipe's for a model of at most END_TO_END_WEIGHTS; 0 for no pass."""
    if options.tuning.end_to_end_steps is not None:
        return options.tuning.end_to_end_steps
    count = 0
    for layer in range(decoder.config.num_hidden_layers):
        shapes = decoder.tensors(layer)
        count += sum(math.prod(shapes[f"{name}.weight"]) for name in decoder.linears(layer) if plan[name] is not None)
    recipe = resolved_recipe(options)
    return int(recipe.end_to_end * recipe.iters) if count <= END_TO_END_WEIGHTS else 0
