"""The model, block after block: read, quantise, hand over, forget. Peak memory is one block and the calibration activations.

A tuned model is made in phases: `tune` brings every block into a `BlockStore`, continuing what is there already; `refine`
tunes all of them together, where that is asked for; `emit` reads the finished model back. What is only rounded needs none
of that: `run` gives it out as it is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.artifact.manifest import BlockRecord, Quality
from ovround.checkpoint import Checkpoint
from ovround.errors import ResumeError
from ovround.models.decoder import HEAD, Decoder
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import FEW_BITS, Codebooks, ConvertOptions, QuantScheme
from ovround.progress import OnProgress, Progress
from ovround.quant.block_store import END_TO_END, TUNED, BlockStore, Emitted, FinishedBlock
from ovround.quant.calibration.calibration_activations import CalibrationActivations
from ovround.quant.calibration.samples import Calibration
from ovround.quant.codebooks.tuned_weight import CodebookWeight
from ovround.quant.device import CPU, Device
from ovround.quant.distributed.group import ALONE, Group
from ovround.quant.engine_arithmetic import activation_groups
from ovround.quant.integers.embeddings import TUNED_BITS, begin_table
from ovround.quant.integers.rtn import round_to_nearest
from ovround.quant.integers.tuned_weight import LearnedScaleWeight, TunedWeight
from ovround.quant.passes.end_to_end import Original, tune_end_to_end
from ovround.quant.passes.init_weights import init_tuned_weights, product_dtype
from ovround.quant.passes.pv import Changes
from ovround.quant.passes.signround import Schedule, TunedBlock, in_type, threads_for, tune_block
from ovround.quant.plan import Plan, end_to_end_steps
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

__all__ = ["BlockQuantizer", "Emitted", "Event"]

Event = Emitted | BlockRecord | Quality
Weight = QTensor | FloatTensor | CodebookTensor


class BlockQuantizer:
    """Walks a checkpoint through a plan.

    Without `calibration` every weight is rounded to nearest and no activation is computed. The activations lie in mapped
    files below `activations_in` where that is given.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: Decoder,
        plan: Plan,
        options: ConvertOptions,
        calibration: Calibration | None,
        on_progress: OnProgress,
        activations_in: Path | None = None,
        device: Device = CPU,
        group: Group = ALONE,
    ) -> None:
        """For this process of the `group`: `calibration` is what all of them tune on together."""
        self._checkpoint, self._plan, self._options = checkpoint, plan, options
        # A head that is tied but has a grid of its own is a table of its own.
        self._decoder = replace(decoder, head_at=HEAD) if HEAD in plan else decoder
        self._tied_to = decoder.head_at
        self._calibration = calibration and calibration.part(group.rank, group.size)
        self._on_progress, self._activations_in = on_progress, activations_in
        self._device, self._group, self._batch_size = device, group, max(1, options.batch // group.size)
        self._blocks = decoder.config.num_hidden_layers
        self._refines = end_to_end_steps(decoder, plan, options) > 0 or options.pv
        shapes = {name: shape for layer in range(self._blocks) for name, shape in decoder.tensors(layer).items()}
        self._activation_groups = activation_groups(plan, shapes | decoder.tensors(), options.engine)

    def run(self) -> Iterator[Event]:
        """Every tensor in the model's order, as it is finished, and what was measured on the way; nothing is stored."""
        front = self._front()
        yield from front
        if self._calibration is None:
            for layer in range(self._blocks):
                yield from self._rounded_block(layer)
            yield from self._back(None)
            return
        with self._chains(self._calibration, front) as chains:
            for window in self._windows():
                for layer, block in zip(window, self._tuned(window, chains, self._calibration), strict=True):
                    yield from _events(block)
                    self._tell(layer, block)
                    self._behind(layer, chains, block)
            back = self._back(chains)
            yield from back
            yield self._quality(chains, front + back)

    def tune(self, store: BlockStore) -> None:
        """Bring every block and the measured quality into `store`; a block that is there already is only computed through.

        A block whose file is damaged is tuned again, which stage `damaged` of the progress tells. Of several processes only
        the first one's store is used. Raises ValueError for a quantizer without calibration.
        """
        if self._calibration is None:
            raise ValueError("without calibration nothing is tuned")
        if self._group.from_first(store.complete):
            self._on_progress(Progress("resume", self._blocks, self._blocks))
            return
        front = self._front()
        with self._chains(self._calibration, front) as chains:
            for window in self._windows():
                blocks = self._group.from_first(partial(self._stored, store, window))
                stored = blocks is not None
                for layer in window if stored else ():
                    chains.advance(chains.original, self._source(layer), layer, dtype=self._dtype((layer,)))
                for layer, block in zip(window, blocks or self._tuned(window, chains, self._calibration), strict=True):
                    if stored:
                        self._on_progress(Progress("resume", layer + 1, self._blocks))
                    else:
                        self._group.check_integers(f"block {layer}", block.digest())
                        if self._group.is_main:
                            store.write(layer, block.tensors, block.record)
                        self._tell(layer, block)
                    self._behind(layer, chains, block)
            self._finish(store, chains, front + self._back(chains), TUNED)

    def refine(
        self,
        store: BlockStore,
        steps: int,
        source: str = TUNED,
        stage: str = END_TO_END,
        changes: Changes | None = None,
    ) -> None:
        """Tune what the stage `source` of `store` holds end to end, all blocks at once, into `stage`; `changes`: PV-Tuning.

        The whole model lies in memory meanwhile, its tuned weights with what tuning needs. Raises ValueError for a quantizer
        without calibration.
        """
        if self._calibration is None:
            raise ValueError("without calibration nothing is tuned")
        if self._group.from_first(partial(store.complete, stage)):
            return
        decoder, calibration, put = self._decoder, self._calibration, self._device.put
        outside = self._group.from_first(partial(store.read, None, source)).tensors
        with self._chains(calibration, outside) as chains:
            tables = self._tuned_tables(outside)
            fixed = {one.name: put(_float32(one.weight)) for one in outside if one.name not in tables}
            tuned = [self._resumed(one) for one in outside if one.name in tables]
            moving = [name for name, tensor in fixed.items() if self._options.norms and tensor.dim() == 1]
            vectors = {name: fixed.pop(name) for name in moving}
            blocks: list[FinishedBlock] = []
            for layer in range(self._blocks):
                chains.advance(chains.original, self._source(layer), layer, dtype=self._dtype((layer,)))
                blocks.append(self._group.from_first(partial(store.read, layer, source)))
                for tensor in blocks[-1].tensors:
                    if not isinstance(tensor.weight, FloatTensor):
                        tuned.append(self._resumed(tensor))
                        continue
                    moves = self._options.norms and len(tensor.weight.shape) == 1
                    (vectors if moves else fixed)[tensor.name] = put(_float32(tensor.weight))
            ends = {name: put(self._original(name)) for name in decoder.head_tensors()}
            original = Original(chains.original.tensor, ends)
            with threads_for(chains.work({weight.name: weight.fake_quantized() for weight in tuned} | fixed)):
                tune_end_to_end(
                    decoder,
                    fixed,
                    tuned,
                    vectors,
                    torch.from_numpy(calibration.windows),
                    original,
                    calibration.held_out,
                    steps,
                    self._batch_size,
                    product_dtype([one.bits for one in tuned], self._device),
                    self._activation_groups,
                    torch.Generator().manual_seed(self._options.seed),
                    lambda step, loss: self._on_progress(Progress(stage, 0, 1, step, steps, None, loss)),
                    self._device,
                    self._group,
                    changes,
                    self._options.label_share,
                )
            results: dict[str, Weight] = {f"{weight.name}.weight": weight.result() for weight in tuned}
            offsets = {f"{one.name}.weight": one.offsets() for one in tuned} if self._options.pv else {}
            results |= {
                name: FloatTensor.of(vector.cpu().numpy(), self._checkpoint.read(name).dtype)
                for name, vector in vectors.items()
            }
            del tuned, fixed
            outside = self._replaced(outside, results, offsets)
            chains.embed(chains.quantized, {one.name: _float32(one.weight) for one in outside})
            for layer, block in enumerate(blocks):
                block = FinishedBlock(self._replaced(block.tensors, results, offsets), block.record)
                self._group.check_integers(f"block {layer}", block.digest())
                if self._group.is_main:
                    store.write(layer, block.tensors, block.record, stage)
                self._behind(layer, chains, block)
            self._finish(store, chains, outside, stage)

    def _tuned_tables(self, outside: Sequence[Emitted]) -> set[str]:
        """The tensors outside the blocks, embedding and head, that are tuned with them."""
        grids = {f"{module}.weight": scheme for module, scheme in self._plan.items() if isinstance(scheme, QuantScheme)}
        return {
            one.name
            for one in outside
            if self._options.tables == "tuned" and one.name in grids and grids[one.name].bits <= TUNED_BITS
        }

    def _replaced(
        self,
        tensors: Sequence[Emitted],
        results: Mapping[str, Weight],
        offsets: Mapping[str, NDArray[np.int8] | None],
    ) -> tuple[Emitted, ...]:
        """`tensors` with those of `results` in their places, and the `offsets` that a later pass continues from."""
        return tuple(
            one
            if (result := results.get(one.name)) is None
            else Emitted(
                one.name, result, _relative_error(self._original(one.name), _float32(result)), offsets.get(one.name)
            )
            for one in tensors
        )

    def _original(self, name: str) -> torch.Tensor:
        return _float32(self._read(name))

    def _read(self, name: str) -> FloatTensor:
        """The checkpoint's tensor of that name; the embedding for a head that is tied to it."""
        return self._checkpoint.read(f"{self._tied_to}.weight" if name == f"{HEAD}.weight" else name)

    def _finish(
        self, store: BlockStore, chains: CalibrationActivations, outside: tuple[Emitted, ...], stage: str
    ) -> None:
        """Store what lies outside the blocks, and the quality, once the chains have passed all of them."""
        self._group.check_integers("embedding and head", FinishedBlock(outside, None).digest())
        quality = self._quality(chains, outside)
        if self._group.is_main:
            store.write(None, outside, None, stage)
            store.write_quality(quality, stage)

    def _resumed(self, tensor: Emitted) -> LearnedScaleWeight | CodebookWeight:
        module = tensor.name.removesuffix(".weight")
        scheme = self._plan[module]
        if isinstance(scheme, QuantScheme) and isinstance(tensor.weight, QTensor):
            return LearnedScaleWeight.resumed(module, tensor.weight, tensor.offsets, scheme, self._device.at)
        if isinstance(scheme, Codebooks) and isinstance(tensor.weight, CodebookTensor):
            learns = self._options.learn_codes
            return CodebookWeight.resumed(module, tensor.weight, tensor.offsets, scheme, self._device.at, learns)
        raise ValueError(f"{module} was not tuned to be continued")

    def emit(self, store: BlockStore, stage: str = TUNED) -> Iterator[Event]:
        """Every tensor in the model's order, the blocks' from `store`; raises ResumeError for a block that was damaged since."""
        outside, front = store.read(None, stage).tensors, len(self._decoder.first_tensors())
        yield from outside[:front]
        for layer in range(self._blocks):
            yield from _events(store.read(layer, stage))
        yield from outside[front:]
        quality = store.read_quality(stage)
        if quality is not None:
            yield quality

    def _front(self) -> tuple[Emitted, ...]:
        """What lies in front of the first block: the embedding, and positions and norm where a family has them."""
        at = f"{self._decoder.embedding_at}.weight"
        return tuple(
            self._table(name, None) if name == at else self._kept(name) for name in self._decoder.first_tensors()
        )

    def _back(self, chains: CalibrationActivations | None) -> tuple[Emitted, ...]:
        """What lies behind the last block, where the `chains` stand: the norm, and the head unless it is the embedding once more.

        Without chains the head is rounded.
        """
        at = f"{HEAD}.weight"
        kept = tuple(self._kept(name) for name in self._decoder.last_tensors() if name != at)
        return (*kept, self._table(at, chains)) if HEAD in self._plan else kept

    def _kept(self, name: str) -> Emitted:
        return Emitted(name, self._read(name), 0.0)

    def _table(self, name: str, chains: CalibrationActivations | None) -> Emitted:
        """The embedding, or the head where `chains` are given."""
        module = name.removesuffix(".weight")
        tensor, scheme = self._read(name), self._plan.get(module)
        if (
            not isinstance(scheme, QuantScheme)
            or self._calibration is None
            or self._options.tables == "rounded"
            or scheme.bits > TUNED_BITS
        ):
            return self._round(name, tensor, module)
        if chains is None:
            return begin_table(name, tensor, scheme, None)
        norm = {name: self._original(name) for name in self._decoder.head_tensors() if name != f"{HEAD}.weight"}
        return begin_table(name, tensor, scheme, chains.head_moments(norm))

    @contextlib.contextmanager
    def _chains(self, calibration: Calibration, front: Sequence[Emitted]) -> Iterator[CalibrationActivations]:
        """Both chains in front of the first block."""
        chains = CalibrationActivations(
            self._decoder, calibration, self._batch_size, self._activations_in, self._device, self._group
        )
        with contextlib.closing(chains):
            names = self._decoder.first_tensors()
            chains.embed(chains.original, {name: self._original(name) for name in names})
            chains.embed(chains.quantized, {one.name: _float32(one.weight) for one in front})
            yield chains

    def _rounded_block(self, layer: int) -> Iterator[Emitted]:
        for name in self._decoder.tensors(layer):
            yield self._round(name, self._checkpoint.read(name), name.removesuffix(".weight"))
        self._on_progress(Progress("quantise", layer + 1, self._blocks))

    def _dtype(self, layers: Iterable[int], *, steps: bool = False) -> torch.dtype | None:
        """What products of these blocks are computed in, in the gradient `steps` or in the chains, where no router may choose
        other experts for the rounding of bfloat16."""
        if self._decoder.largest_stack and not steps:
            return None
        grids = [self._plan.get(name) for layer in layers for name in self._decoder.linears(layer)]
        bits = [grid.code_bits if isinstance(grid, Codebooks) else grid.bits for grid in grids if grid is not None]
        return product_dtype(bits, self._device)

    def _windows(self) -> list[range]:
        """The blocks that are tuned together."""
        size = self._options.window
        return [range(first, min(first + size, self._blocks)) for first in range(0, self._blocks, size)]

    def _tuned(self, window: range, chains: CalibrationActivations, calibration: Calibration) -> list[FinishedBlock]:
        """Tune the blocks of a window; the original chain then stands behind them, the quantised one still in front."""
        sources = {layer: self._source(layer) for layer in window}
        unreached = {
            layer: chains.advance(chains.original, source, layer, dtype=self._dtype((layer,)))
            for layer, source in sources.items()
        }
        weights = {name: weight for source in sources.values() for name, weight in source.items()}
        names = [name for layer in window for name in self._decoder.linears(layer)]
        dtypes = {name: self._read(name).dtype for name, value in weights.items() if value.dim() == 1}
        tuned = init_tuned_weights(
            window, names, weights, dtypes, self._plan, self._options, chains, self._device,
            self._dtype(window),
            lambda done, of: self._on_progress(Progress("codebooks", window[0], self._blocks, done, of)),
        )  # fmt: skip
        result = self._tune(window, chains, calibration, weights, tuned) if tuned else None
        return [self._finished(layer, source, result, unreached[layer]) for layer, source in sources.items()]

    def _finished(
        self, layer: int, source: Mapping[str, torch.Tensor], result: TunedBlock | None, unreached: tuple[str, ...]
    ) -> FinishedBlock:
        emitted = []
        for name, original in source.items():
            module = name.removesuffix(".weight")
            quantized = None if result is None else result.weights.get(module)
            if result is None or quantized is None:
                emitted.append(Emitted(name, self._checkpoint.read(name), 0.0))
            else:
                offsets = result.offsets.get(module) if self._refines else None
                emitted.append(Emitted(name, quantized, _relative_error(original, _float32(quantized)), offsets))
        if result is None:
            return FinishedBlock(tuple(emitted), None)
        record = BlockRecord(layer, result.loss_before, result.loss_after, result.steps, unreached)
        return FinishedBlock(tuple(emitted), record)

    def _tune(
        self,
        window: range,
        chains: CalibrationActivations,
        calibration: Calibration,
        weights: Mapping[str, torch.Tensor],
        tuned: Sequence[TunedWeight],
    ) -> TunedBlock:
        """The tuner, given the inputs from the quantised chain and the targets, which the original one holds already."""
        names = {f"{one.name}.weight" for one in tuned}

        def on_step(step: int, loss: float) -> None:
            chains.release()
            self._on_progress(Progress("quantise", window[0], self._blocks, step, self._options.steps, None, loss))

        options, bits = self._options, min(one.bits for one in tuned)
        schedule = Schedule(
            steps=options.steps,
            batch_size=self._batch_size,
            robust=bits <= FEW_BITS if options.robust_loss is None else options.robust_loss,
            choose=options.snapshot == "held-out",
            step_dtype=self._dtype(window, steps=True),
            compile=options.compile == "on",
        )

        def forward(current: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
            ops = TorchOps(in_type(current, dtype), activation_groups=self._activation_groups)
            for layer in window:
                x = self._decoder.block(ops, x, layer)
            return x.float()

        with threads_for(chains.work(weights)):
            return tune_block(
                forward,
                {name: self._device.put(value) for name, value in weights.items() if name not in names},
                tuned,
                chains.quantized.tensor,
                chains.original.tensor,
                calibration.held_out,
                schedule,
                torch.Generator().manual_seed(options.seed + window[0]),
                on_step,
                self._device,
                self._group,
            )

    def _stored(self, store: BlockStore, window: range) -> list[FinishedBlock] | None:
        blocks = []
        for layer in window:
            if not store.has(layer):
                return None
            try:
                blocks.append(store.read(layer))
            except ResumeError:
                self._on_progress(Progress("damaged", layer, self._blocks))
                return None
        return blocks

    def _source(self, layer: int) -> dict[str, torch.Tensor]:
        return {name: _float32(self._checkpoint.read(name)) for name in self._decoder.tensors(layer)}

    def _tell(self, layer: int, block: FinishedBlock) -> None:
        told = Progress("quantise", layer + 1, self._blocks)
        if block.record is not None:
            losses, unreached = (block.record.loss_before, block.record.loss_after), len(block.record.unreached)
            told = Progress("quantise", layer + 1, self._blocks, 0, 0, *losses, unreached)
        self._on_progress(told)

    def _behind(self, layer: int, chains: CalibrationActivations, block: FinishedBlock) -> None:
        """Bring the quantised chain behind a finished block."""
        weights = {tensor.name: _float32(tensor.weight) for tensor in block.tensors}
        chains.advance(chains.quantized, weights, layer, self._activation_groups, self._dtype((layer,)))

    def _quality(self, chains: CalibrationActivations, outside: Sequence[Emitted]) -> Quality:
        names = self._decoder.head_tensors()
        finished = {one.name: _float32(one.weight) for one in outside if one.name in names}
        return chains.quality({name: self._original(name) for name in names}, finished)

    def _round(self, name: str, tensor: FloatTensor, module: str) -> Emitted:
        scheme = self._plan.get(module)
        if not isinstance(scheme, QuantScheme) or not name.endswith(".weight"):
            return Emitted(name, tensor, 0.0)
        quantized, error = round_to_nearest(name, tensor, scheme)
        return Emitted(name, quantized, error)


def _events(block: FinishedBlock) -> Iterator[Event]:
    yield from block.tensors
    if block.record is not None:
        yield block.record


def _float32(weight: Weight) -> torch.Tensor:
    return torch.from_numpy(weight.float32() if isinstance(weight, FloatTensor) else weight.dequantize())


def _relative_error(original: torch.Tensor, quantized: torch.Tensor) -> float:
    norm = float(original.norm())
    return float((original - quantized).norm()) / norm if norm else 0.0
