"""The passes of a prepared conversion, without its exporters."""

from __future__ import annotations

from ovround.conversion.preparation import Job
from ovround.progress import OnProgress, silent
from ovround.quant.block_store import BlockStore, block_store
from ovround.quant.device import CPU, Device
from ovround.quant.emitted import Emitted, Event, FinishedBlock
from ovround.quant.passes.block_pass import BlockPass
from ovround.quant.passes.context import QuantContext
from ovround.quant.passes.rtn_pass import RtnPass


class BlockFinished(Exception):  # noqa: N818
    """Raised from the progress to end a pass."""


def context_of(job: Job, on_progress: OnProgress = silent, device: Device = CPU) -> QuantContext:
    """What the passes of a single process get."""
    return QuantContext(
        job.checkpoint, job.decoder, job.plan, job.settings, job.calibration, on_progress, device=device
    )


def block_events(job: Job, on_progress: OnProgress = silent) -> list[Event]:
    """What the block pass gives, or rounding where nothing is tuned, in the model's order."""
    context = context_of(job, on_progress)
    if job.calibration is None:
        return list(RtnPass(context).run())
    with block_store(job.out, job.checkpoint, context.blocks) as store:
        store.begin({})
        BlockPass(context).run(store)
        return list(store.emit(job.decoder))


def emitted(job: Job) -> dict[str, Emitted]:
    """The tensors among them by name."""
    return {event.name: event for event in block_events(job) if isinstance(event, Emitted)}


def first_block(job: Job) -> FinishedBlock:
    """Block 0 alone; no other one is tuned."""

    def stop(progress: object) -> None:
        if getattr(progress, "block", 0) == 1:
            raise BlockFinished

    store = BlockStore(job.out, job.checkpoint, job.decoder.config.num_hidden_layers)
    store.begin({})
    try:
        BlockPass(context_of(job, stop)).run(store)
    except BlockFinished:
        return store.read(0)
    raise AssertionError("the pass did not report its first block")
