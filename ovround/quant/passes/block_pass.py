"""The per-block tuning pass: read a block, tune it with SignRound, store it, forget it.

Peak memory is one group of blocks and the calibration activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from ovround.artifact.manifest import BlockRecord
from ovround.errors import ResumeError
from ovround.heap import return_freed_memory
from ovround.models.decoder import HEAD
from ovround.progress import Progress
from ovround.quant.block_store import TUNED, BlockStore
from ovround.quant.calibration.calibration_activations import CalibrationActivations
from ovround.quant.emitted import Emitted, FinishedBlock
from ovround.quant.integers.embeddings import TUNED_BITS, init_embedding
from ovround.quant.integers.tuned_weight import TunedWeight
from ovround.quant.passes.context import QuantContext, float32, relative_error
from ovround.quant.passes.init_weights import init_tuned_weights
from ovround.quant.passes.rtn_pass import RtnPass, names_after_blocks
from ovround.quant.passes.signround import Reconstruction, Schedule, TunedBlock, tune_block
from ovround.quant.passes.streamed_weights import TuningOps
from ovround.quant.threads import threads_for
from ovround.tensors.scheme import QuantScheme


class BlockPass:
    """Tunes the model block after block, or a few consecutive blocks jointly, into a `BlockStore`."""

    def __init__(self, context: QuantContext) -> None:
        """Raises ValueError for a context without calibration."""
        self._context, self._tuning_data = context, context.tuning_data
        self._rtn, self._activation_groups = RtnPass(context), context.activation_groups()

    def run(self, store: BlockStore) -> None:
        """Bring every block and the measured quality into `store`; blocks that it has already are kept.

        A block whose file is damaged is tuned again, which the stage `damaged` of the progress reports. Among several
        processes only the store of the first one is used.
        """
        context = self._context
        if context.group.from_first(store.complete):
            context.on_progress(Progress("resume", context.blocks, context.blocks))
            return
        front = self.front()
        with context.activations(front) as activations:
            for layers in self._block_groups():
                stored = context.group.from_first(partial(self._stored, store, layers))
                if stored is not None:
                    self._skip(layers, stored, activations)
                    continue
                for layer, block in zip(layers, self.tune(layers, activations), strict=True):
                    context.store_block(store, layer, block, TUNED)
                    context.report_block(layer, block)
                    context.advance_quantized(activations, layer, block)
                    del block  # not until the next one is tuned
            context.finish(store, activations, front + self._after_blocks(activations), TUNED)

    def _block_groups(self) -> list[range]:
        """The layers that are tuned jointly."""
        size, blocks = self._context.settings.block_group_size, self._context.blocks
        return [range(first, min(first + size, blocks)) for first in range(0, blocks, size)]

    # Embedding and head

    def front(self) -> tuple[Emitted, ...]:
        """What lies before the first block: the embedding, and positions and norm where a family has them."""
        return tuple(
            init_embedding(name, self._context.read(name), scheme, None)
            if (scheme := self._tuned_scheme(name)) is not None
            else self._rtn.rounded(name)
            for name in self._context.decoder.first_tensors()
        )

    def _after_blocks(self, activations: CalibrationActivations) -> tuple[Emitted, ...]:
        """The norm, and the head unless the embedding serves as head; the activations have passed all blocks."""
        context = self._context
        finished = []
        for name in names_after_blocks(context):
            if (scheme := self._tuned_scheme(name)) is None:
                finished.append(self._rtn.rounded(name))
                continue
            norm = {name: value for name, value in context.original_head().items() if name != f"{HEAD}.weight"}
            finished.append(init_embedding(name, context.read(name), scheme, activations.head_hessian(norm)))
        return tuple(finished)

    def _tuned_scheme(self, name: str) -> QuantScheme | None:
        """The scheme of an embedding or head that a later pass may tune; None for one that is rounded, or stays in float."""
        scheme = self._context.plan.get(name.removesuffix(".weight"))
        if not isinstance(scheme, QuantScheme) or self._context.settings.embeddings == "rounded":
            return None
        return scheme if scheme.bits <= TUNED_BITS else None

    # Blocks that an earlier run has finished

    def _stored(self, store: BlockStore, layers: range) -> list[FinishedBlock] | None:
        """A group of blocks from the store; None where one of them is missing or damaged."""
        blocks = []
        for layer in layers:
            if not store.has(layer):
                return None
            try:
                blocks.append(store.read(layer))
            except ResumeError:
                self._context.on_progress(Progress("damaged", layer, self._context.blocks))
                return None
        return blocks

    def _skip(self, layers: range, blocks: Sequence[FinishedBlock], activations: CalibrationActivations) -> None:
        """Move both models' activations past blocks that are finished."""
        context = self._context
        for layer in layers:
            context.advance_full_precision(activations, layer)
        for layer, block in zip(layers, blocks, strict=True):
            context.on_progress(Progress("resume", layer + 1, context.blocks))
            context.advance_quantized(activations, layer, block)

    # Blocks that are tuned

    def tune(self, layers: range, activations: CalibrationActivations) -> list[FinishedBlock]:
        """Tune a group of blocks; then the original model's activations have passed it, the quantised model's have not."""
        context = self._context
        return_freed_memory()  # the block before has left it in pieces
        weights: dict[str, torch.Tensor] = {}
        unreached = {}
        for layer in layers:
            weights |= (block := context.original_block(layer))
            unreached[layer] = context.advance_full_precision(activations, layer, block)
        del block
        tables = self._tables(layers)
        weights |= {name: float32(table.weight) for name, table in tables.items()}
        work = activations.work(weights)
        tuned = init_tuned_weights(context, layers, weights, activations)
        result = self._signround(layers, activations, weights, tuned, work) if tuned else None
        del tuned  # the latent levels of a mixture's experts are gigabytes
        finished = (self._finished(layer, result, unreached[layer]) for layer in layers)
        return [
            replace(block, tensors=tuple(tables.get(tensor.name, tensor) for tensor in block.tensors))
            for block in finished
        ]

    def _tables(self, layers: range) -> dict[str, Emitted]:
        """The tables of blocks, whose rows are looked up: they are rounded, as the embedding is."""
        names = (f"{module}.weight" for layer in layers for module in self._context.decoder.tables(layer))
        return {name: self._rtn.rounded(name) for name in names}

    def _signround(
        self,
        layers: range,
        activations: CalibrationActivations,
        fixed: Mapping[str, torch.Tensor],
        tuned: Sequence[TunedWeight],
        work: int,
    ) -> TunedBlock:
        """Tune the quantised model's group of blocks to the output of the original one; a batch takes `work` multiplications."""
        context, settings = self._context, self._context.settings
        carried = activations.carried(activations.quantized)
        read = carried.names(layers)

        def on_step(step: int, loss: float) -> None:
            activations.release()
            context.on_progress(Progress("quantise", layers[0], context.blocks, step, settings.iters, None, loss))

        def forward(
            current: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None, *values: torch.Tensor
        ) -> torch.Tensor:
            ops = TuningOps(current, activation_groups=self._activation_groups)
            ops.shared_values = dict(zip(read, values, strict=True))
            for layer in layers:
                x = context.decoder.block(ops, x, layer)
            return x.float()

        schedule = Schedule(
            steps=settings.iters,
            batch_size=context.batch_size,
            robust=min(weight.bits for weight in tuned) <= settings.robust_loss_max_bits,
            step_dtype=context.product_dtype(layers, steps=True),
            compile=settings.compile,
            offsets=settings.end_to_end_steps > 0 or settings.pv_steps > 0,
        )
        problem = Reconstruction(
            forward=forward,
            fixed={name: context.device.put(value) for name, value in fixed.items()},
            inputs=activations.quantized.tensor,
            targets=activations.full_precision.tensor,
            held_out=self._tuning_data.held_out,
            carried=carried.tensors(read),
            streamed=context.decoder.stacked(),
        )
        generator = torch.Generator().manual_seed(settings.seed + layers[0])
        with threads_for(work):
            return tune_block(problem, tuned, schedule, generator, on_step, context.device, context.group)

    def _finished(self, layer: int, result: TunedBlock | None, unreached: tuple[str, ...]) -> FinishedBlock:
        context, names = self._context, self._context.decoder.tensors(layer)
        if result is None:
            return FinishedBlock(tuple(Emitted(name, context.read(name), 0.0) for name in names), None)
        tensors = []
        for name in names:
            module = name.removesuffix(".weight")
            quantized = result.weights.get(module)
            if quantized is None:
                tensors.append(Emitted(name, context.read(name), 0.0))
                continue
            error = relative_error(context.original(name), float32(quantized))
            tensors.append(Emitted(name, quantized, error, result.offsets.get(module)))
        record = BlockRecord(layer, result.loss_before, result.loss_after, result.steps, unreached)
        return FinishedBlock(tuple(tensors), record)
