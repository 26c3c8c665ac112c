"""The model, block after block: read, quantise, hand over, forget. Peak memory is one block and the calibration activations.

A tuned model is made in phases: `tune` brings every block into a `BlockStore`, continuing what is there already; `refine`
tunes all of them together, where that is asked for; `emit` reads the finished model back. What is only rounded needs none
of that: `run` gives it out as it is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from ovround.artifact import BlockRecord, Quality
from ovround.checkpoint import Checkpoint
from ovround.config import FEW_BITS, ConvertOptions
from ovround.errors import ResumeError
from ovround.floattensor import FloatTensor
from ovround.models.decoder import HEAD, Decoder
from ovround.models.torch_ops import TorchOps
from ovround.progress import OnProgress, Progress
from ovround.qtensor import QTensor
from ovround.quant.block_store import END_TO_END, TUNED, BlockStore, Emitted, FinishedBlock
from ovround.quant.calibration import Calibration
from ovround.quant.chains import Chains
from ovround.quant.device import CPU, Device
from ovround.quant.distributed import ALONE, Group
from ovround.quant.end_to_end import Original, tune_end_to_end
from ovround.quant.engine_arithmetic import activation_groups
from ovround.quant.initial_grid import compensated, from_extremes, searched
from ovround.quant.plan import Plan, end_to_end_steps
from ovround.quant.rtn import round_to_nearest
from ovround.quant.signround import Schedule, TunedBlock, in_type, threads_for, tune_block
from ovround.quant.tuned_weight import ClippedWeight, FreeWeight, TunedWeight

__all__ = ["BlockQuantizer", "Emitted", "Event", "step_dtype"]

Event = Emitted | BlockRecord | Quality


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
        self._checkpoint, self._decoder, self._plan, self._options = checkpoint, decoder, plan, options
        self._calibration = calibration and calibration.part(group.rank, group.size)
        self._on_progress, self._activations_in = on_progress, activations_in
        self._device, self._group, self._batch_size = device, group, max(1, options.batch_size // group.size)
        self._blocks = decoder.config.num_hidden_layers
        self._refines = end_to_end_steps(decoder, plan, options) > 0
        shapes = {name: shape for layer in range(self._blocks) for name, shape in decoder.tensors(layer).items()}
        self._activation_groups = activation_groups(plan, shapes | decoder.tensors(), options.engine)

    def run(self) -> Iterator[Event]:
        """Every tensor in the model's order, as it is finished, and what was measured on the way; nothing is stored."""
        yield self._embedding()
        if self._calibration is None:
            for layer in range(self._blocks):
                yield from self._rounded_block(layer)
            yield from self._head()
            return
        with self._chains(self._calibration) as chains:
            for layer in range(self._blocks):
                block = self._tuned_block(layer, chains, self._calibration)
                yield from _events(block)
                self._tell(layer, block)
                self._behind(layer, chains, block)
            yield from self._head()
            yield self._quality(chains)

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
        with self._chains(self._calibration) as chains:
            for layer in range(self._blocks):
                block = self._group.from_first(partial(self._stored, store, layer))
                if block is None:
                    block = self._tuned_block(layer, chains, self._calibration)
                    self._group.check_integers(f"block {layer}", block.digest())
                    if self._group.first:
                        store.write(layer, block.tensors, block.record)
                    self._tell(layer, block)
                else:
                    chains.advance(chains.original, self._source(layer), layer)
                    self._on_progress(Progress("resume", layer + 1, self._blocks))
                self._behind(layer, chains, block)
            quality = self._quality(chains)
            if self._group.first:
                store.write_quality(quality)

    def refine(self, store: BlockStore, steps: int) -> None:
        """Tune what `tune` brought into `store` end to end, all blocks at once, into the stage END_TO_END.

        The whole model lies in memory meanwhile, its tuned weights with what tuning needs. Raises ValueError for a quantizer
        without calibration.
        """
        if self._calibration is None:
            raise ValueError("without calibration nothing is tuned")
        if self._group.from_first(partial(store.complete, END_TO_END)):
            return
        decoder, calibration, put = self._decoder, self._calibration, self._device.put
        with self._chains(calibration) as chains:
            embedding = self._embedding()
            norm_at, head_at = f"{decoder.norm_at}.weight", f"{decoder.head_at}.weight"
            norm, head = (self._checkpoint.read(name) for name in (norm_at, head_at))
            fixed = {embedding.name: put(_float32(embedding.weight)), norm_at: put(_float32(norm))}
            fixed[head_at] = put(_float32(self._rounded_head(head).weight))
            blocks, tuned = [], []
            vectors: dict[str, torch.Tensor] = {}
            for layer in range(self._blocks):
                source = self._source(layer)
                chains.advance(chains.original, source, layer)
                source = {name: put(tensor) for name, tensor in source.items()}
                blocks.append(self._group.from_first(partial(store.read, layer)))
                for tensor in blocks[-1].tensors:
                    if isinstance(tensor.weight, QTensor):
                        tuned.append(self._resumed(tensor))
                    elif self._options.norms and source[tensor.name].dim() == 1:
                        vectors[tensor.name] = source[tensor.name]
                    else:
                        fixed[tensor.name] = source[tensor.name]
            original = Original(chains.original.tensor, {norm_at: fixed[norm_at], head_at: put(_float32(head))})
            with threads_for(chains.work({weight.name: weight.latent for weight in tuned} | fixed)):
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
                    step_dtype(tuned, self._device),
                    self._activation_groups,
                    torch.Generator().manual_seed(self._options.seed),
                    lambda step, loss: self._on_progress(Progress("end-to-end", 0, 1, step, steps, None, loss)),
                    self._device,
                    self._group,
                )
            results: dict[str, QTensor | FloatTensor] = {f"{weight.name}.weight": weight.result() for weight in tuned}
            results |= {
                name: FloatTensor.of(vector.cpu().numpy(), self._checkpoint.read(name).dtype)
                for name, vector in vectors.items()
            }
            del tuned, fixed
            for layer, block in enumerate(blocks):
                source = self._source(layer)
                tensors = tuple(
                    Emitted(one.name, result, _relative_error(source[one.name], _float32(result)))
                    if (result := results.get(one.name)) is not None
                    else one
                    for one in block.tensors
                )
                block = FinishedBlock(tensors, block.record)
                self._group.check_integers(f"block {layer}", block.digest())
                if self._group.first:
                    store.write(layer, tensors, block.record, END_TO_END)
                self._behind(layer, chains, block)
            quality = self._quality(chains)
            if self._group.first:
                store.write_quality(quality, END_TO_END)

    def _resumed(self, tensor: Emitted) -> FreeWeight:
        module = tensor.name.removesuffix(".weight")
        scheme = self._plan[module]
        if scheme is None or not isinstance(tensor.weight, QTensor) or tensor.offsets is None:
            raise ValueError(f"{module} was not tuned to be continued")
        return FreeWeight.resumed(module, tensor.weight, tensor.offsets, scheme, self._device.at)

    def emit(self, store: BlockStore, stage: str = TUNED) -> Iterator[Event]:
        """Every tensor in the model's order, the blocks' from `store`; raises ResumeError for a block that was damaged since."""
        yield self._embedding()
        for layer in range(self._blocks):
            yield from _events(store.read(layer, stage))
        yield from self._head()
        quality = store.read_quality(stage)
        if quality is not None:
            yield quality

    def _embedding(self) -> Emitted:
        at = self._decoder.embedding_at
        return self._round(f"{at}.weight", self._checkpoint.read(f"{at}.weight"), at)

    @contextlib.contextmanager
    def _chains(self, calibration: Calibration) -> Iterator[Chains]:
        """Both chains in front of the first block."""
        chains = Chains(self._decoder, calibration, self._batch_size, self._activations_in, self._device, self._group)
        with contextlib.closing(chains):
            emitted = self._embedding()
            chains.embed(chains.original, _float32(self._checkpoint.read(emitted.name)))
            chains.embed(chains.quantized, _float32(emitted.weight))
            del emitted
            yield chains

    def _rounded_block(self, layer: int) -> Iterator[Emitted]:
        for name in self._decoder.tensors(layer):
            yield self._round(name, self._checkpoint.read(name), name.removesuffix(".weight"))
        self._on_progress(Progress("quantise", layer + 1, self._blocks))

    def _tuned_block(self, layer: int, chains: Chains, calibration: Calibration) -> FinishedBlock:
        """Tune one block; the original chain then stands behind it, the quantised one still in front."""
        weights = self._source(layer)
        chains.advance(chains.original, weights, layer)
        tuned = self._beginning(layer, chains, weights)
        result = self._tune(layer, chains, calibration, weights, tuned) if tuned else None
        emitted = []
        for name, original in weights.items():
            quantized = None if result is None else result.weights.get(name.removesuffix(".weight"))
            if quantized is None:
                emitted.append(Emitted(name, self._checkpoint.read(name), 0.0))
            else:
                offsets = result.offsets[name.removesuffix(".weight")] if result and self._refines else None
                emitted.append(Emitted(name, quantized, _relative_error(original, _float32(quantized)), offsets))
        if result is None:
            return FinishedBlock(tuple(emitted), None)
        return FinishedBlock(tuple(emitted), BlockRecord(layer, result.loss_before, result.loss_after, result.steps))

    def _beginning(self, layer: int, chains: Chains, weights: dict[str, torch.Tensor]) -> list[TunedWeight]:
        """The block's weights that have a grid, where tuning begins."""
        schemes = {name: scheme for name in self._decoder.linears(layer) if (scheme := self._plan[name]) is not None}
        matrices = {name: self._device.put(weights[f"{name}.weight"]) for name in schemes}
        if self._options.scales == "clipped":
            return [ClippedWeight(name, matrices[name], scheme) for name, scheme in schemes.items()]
        starts = self._options.starts_at
        moments = chains.moments(weights, layer) if schemes and starts != "extremes" else {}
        tuned: list[TunedWeight] = []
        for name, scheme in schemes.items():
            matrix = matrices[name]
            if starts == "compensated":
                start = compensated(matrix, scheme, moments[name])
            elif starts == "search":
                start = searched(matrix, scheme, moments[name].diagonal())
            else:
                start = from_extremes(matrix, scheme)
            tuned.append(FreeWeight(name, start, matrix.shape, scheme))
        return tuned

    def _tune(
        self,
        layer: int,
        chains: Chains,
        calibration: Calibration,
        weights: Mapping[str, torch.Tensor],
        tuned: Sequence[TunedWeight],
    ) -> TunedBlock:
        """The tuner, given the block's inputs from the quantised chain and its targets, which the original one holds already."""
        names = {f"{one.name}.weight" for one in tuned}

        def on_step(step: int, loss: float) -> None:
            chains.release()
            self._on_progress(Progress("quantise", layer, self._blocks, step, self._options.steps, None, loss))

        options, bits = self._options, min(one.scheme.bits for one in tuned)
        schedule = Schedule(
            steps=options.steps,
            batch_size=self._batch_size,
            robust=bits <= FEW_BITS if options.robust_loss is None else options.robust_loss,
            choose=options.snapshot == "held-out",
            step_dtype=step_dtype(tuned, self._device),
        )

        def forward(current: Mapping[str, torch.Tensor], x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
            ops = TorchOps(in_type(current, dtype), activation_groups=self._activation_groups)
            return self._decoder.block(ops, x if dtype is None else x.to(dtype), layer).float()

        with threads_for(chains.work(weights)):
            return tune_block(
                forward,
                {name: self._device.put(value) for name, value in weights.items() if name not in names},
                tuned,
                chains.quantized.tensor,
                chains.original.tensor,
                calibration.held_out,
                schedule,
                torch.Generator().manual_seed(options.seed + layer),
                on_step,
                self._device,
                self._group,
            )

    def _stored(self, store: BlockStore, layer: int) -> FinishedBlock | None:
        if not store.has(layer):
            return None
        try:
            return store.read(layer)
        except ResumeError:
            self._on_progress(Progress("damaged", layer, self._blocks))
            return None

    def _source(self, layer: int) -> dict[str, torch.Tensor]:
        return {name: _float32(self._checkpoint.read(name)) for name in self._decoder.tensors(layer)}

    def _tell(self, layer: int, block: FinishedBlock) -> None:
        losses = (block.record.loss_before, block.record.loss_after) if block.record else (None, None)
        self._on_progress(Progress("quantise", layer + 1, self._blocks, 0, 0, *losses))

    def _behind(self, layer: int, chains: Chains, block: FinishedBlock) -> None:
        """Bring the quantised chain behind a finished block."""
        weights = {tensor.name: _float32(tensor.weight) for tensor in block.tensors}
        chains.advance(chains.quantized, weights, layer, self._activation_groups)

    def _head(self) -> Iterator[Emitted]:
        """The final norm, and the head unless it is tied to the embedding, which has been given out."""
        name = f"{self._decoder.norm_at}.weight"
        yield Emitted(name, self._checkpoint.read(name), 0.0)
        if HEAD in self._plan:
            yield self._rounded_head(self._checkpoint.read(f"{self._decoder.head_at}.weight"))

    def _rounded_head(self, original: FloatTensor) -> Emitted:
        # tied to the embedding, it is that tensor again: rounding is deterministic
        module = HEAD if HEAD in self._plan else self._decoder.head_at
        return self._round(f"{module}.weight", original, module)

    def _quality(self, chains: Chains) -> Quality:
        norm = self._checkpoint.read(f"{self._decoder.norm_at}.weight")
        original = self._checkpoint.read(f"{self._decoder.head_at}.weight")
        quantized = self._rounded_head(original).weight
        return chains.quality(_float32(norm), _float32(original), _float32(quantized))

    def _round(self, name: str, tensor: FloatTensor, module: str) -> Emitted:
        scheme = self._plan.get(module)
        if scheme is None or not name.endswith(".weight"):
            return Emitted(name, tensor, 0.0)
        quantized, error = round_to_nearest(name, tensor, scheme)
        return Emitted(name, quantized, error)


def _events(block: FinishedBlock) -> Iterator[Event]:
    yield from block.tensors
    if block.record is not None:
        yield block.record


def step_dtype(tuned: Sequence[TunedWeight], device: Device = CPU) -> torch.dtype | None:
    """bfloat16 for the gradient steps where the device has instructions for it and the grid is far coarser than its rounding.

    On a CPU with AMX, 4-bit tuning of a 7 M model took 0.42 of the time, with block errors within 0.6 % of float32's. Losses
    that choose between candidates, and both chains of activations, stay in float32.
    """
    coarse = all(weight.scheme.bits <= 4 for weight in tuned)
    if device.kind != "cpu":
        return torch.bfloat16 if coarse else None
    # torch 2.8 cannot be asked; it then tunes in float32
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if coarse and fast else None


def _float32(weight: QTensor | FloatTensor) -> torch.Tensor:
    return torch.from_numpy(weight.dequantize() if isinstance(weight, QTensor) else weight.float32())


def _relative_error(original: torch.Tensor, quantized: torch.Tensor) -> float:
    norm = float(original.norm())
    return float((original - quantized).norm()) / norm if norm else 0.0
