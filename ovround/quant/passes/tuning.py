"""The passes of a tuned conversion in their order: every block by itself, then all blocks together."""

from __future__ import annotations

from functools import partial

from ovround.quant.block_store import END_TO_END, PV, TUNED, BlockStore
from ovround.quant.passes.block_pass import BlockPass
from ovround.quant.passes.context import QuantContext
from ovround.quant.passes.level_update import SignUpdate
from ovround.quant.passes.model_pass import ModelPass
from ovround.quant.passes.pv import Changes, PVUpdate


def tune_model(context: QuantContext, store: BlockStore) -> str:
    """Run the passes that the settings ask for, each into a stage of `store`; the stage that is complete then."""
    settings, stage = context.settings, TUNED
    BlockPass(context).run(store)
    if settings.end_to_end_steps:
        ModelPass(context, settings.end_to_end_steps, SignUpdate, stage, END_TO_END).run(store)
        stage = END_TO_END
    if settings.pv_steps:
        update = partial(PVUpdate, changes=Changes(settings.pv_changes, settings.straight_through))
        ModelPass(context, settings.pv_steps, update, stage, PV).run(store)
        stage = PV
    return stage
