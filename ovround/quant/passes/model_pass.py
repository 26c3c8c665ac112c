"""The end-to-end pass: takes one stage of the store, tunes all blocks together, and writes the next stage.

The whole model lies in memory meanwhile, with the state that tuning needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.models.parts.ends import is_table
from ovround.progress import Progress
from ovround.quant.block_store import END_TO_END, TUNED, BlockStore
from ovround.quant.calibration.calibration_activations import CalibrationActivations
from ovround.quant.codebooks.tuned_weight import CodebookWeight
from ovround.quant.emitted import Emitted, FinishedBlock, StoredWeight
from ovround.quant.integers.embeddings import TUNED_BITS
from ovround.quant.integers.tuned_weight import LearnedScaleWeight
from ovround.quant.passes.context import QuantContext, float32, floats, relative_error
from ovround.quant.passes.divergence import Divergence, OriginalOutput
from ovround.quant.passes.end_to_end import TunedModel, tune_end_to_end
from ovround.quant.passes.level_update import LevelUpdate, SignUpdate, TunableWeight
from ovround.quant.product_dtype import product_dtype
from ovround.quant.threads import threads_for
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import Codebooks, QuantScheme

UpdateFactory = Callable[[Sequence[TunableWeight]], LevelUpdate]


@dataclass(slots=True, eq=False)
class _Parts:
    """The quantised model sorted by what happens to its tensors."""

    fixed: dict[str, torch.Tensor] = field(default_factory=dict)
    tuned: list[TunableWeight] = field(default_factory=list)
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)


class ModelPass:
    """Tunes the stage `source` of a store for some steps, all blocks at once, into the stage `stage`.

    `level_update` decides how levels and codes change.
    """

    def __init__(
        self,
        context: QuantContext,
        steps: int,
        level_update: UpdateFactory = SignUpdate,
        source: str = TUNED,
        stage: str = END_TO_END,
    ) -> None:
        """Raises ValueError for a context without calibration."""
        self._context, self._steps, self._level_update = context, steps, level_update
        self._source, self._stage = source, stage
        if context.calibration is None:
            raise ValueError("without calibration nothing is tuned")

    def run(self, store: BlockStore) -> None:
        """Write the tuned model and its measured quality, unless the store has this stage already."""
        context = self._context
        if context.group.from_first(partial(store.complete, self._stage)):
            return
        outside = context.group.from_first(partial(store.read, None, self._source)).tensors
        with context.activations(outside) as activations:
            blocks = []
            for layer in range(context.blocks):
                context.advance_full_precision(activations, layer)
                blocks.append(context.group.from_first(partial(store.read, layer, self._source)))
            results, offsets = self._tuned(outside, blocks, activations)
            outside = self._replaced(outside, results, offsets)
            activations.embed(activations.quantized, floats(outside))
            for layer, before in enumerate(blocks):
                block = FinishedBlock(self._replaced(before.tensors, results, offsets), before.record)
                context.store_block(store, layer, block, self._stage)
                context.advance_quantized(activations, layer, block)
            context.finish(store, activations, outside, self._stage)

    def _tuned(
        self, outside: Sequence[Emitted], blocks: Sequence[FinishedBlock], activations: CalibrationActivations
    ) -> tuple[dict[str, StoredWeight], dict[str, NDArray[np.int8] | None]]:
        """The tensors that tuning has changed, by name, and the offsets for a later pass."""
        context = self._context
        parts = self._sorted(outside, blocks)
        model = TunedModel(parts.fixed, parts.tuned, parts.vectors)
        head = {name: context.device.put(value) for name, value in context.original_head().items()}
        step_dtype = product_dtype([weight.bits for weight in model.tuned], context.device)
        loss = Divergence(context, OriginalOutput(activations.full_precision.tensor, head), step_dtype)

        def on_step(step: int, lowest: float) -> None:
            context.on_progress(Progress(self._stage, 0, 1, step, self._steps, None, lowest))

        work = activations.work({weight.name: weight.fake_quantized() for weight in model.tuned} | parts.fixed)
        with threads_for(work):
            tune_end_to_end(model, loss, self._level_update(model.tuned), self._steps, context, on_step)
        results: dict[str, StoredWeight] = {f"{weight.name}.weight": weight.result() for weight in model.tuned}
        offsets = (
            {f"{weight.name}.weight": weight.offsets() for weight in model.tuned} if context.settings.pv_steps else {}
        )
        for name, vector in model.vectors.items():
            results[name] = FloatTensor.of(vector.cpu().numpy(), context.read(name).dtype)
        return results, offsets

    def _sorted(self, outside: Sequence[Emitted], blocks: Sequence[FinishedBlock]) -> _Parts:
        """Put every tensor on the device, under tuning where it is tuned."""
        parts, embeddings = _Parts(), self._tuned_embeddings(outside)
        for tensor in outside:
            self._add(parts, tensor, tensor.name in embeddings)
        for block in blocks:
            for tensor in block.tensors:
                rows = is_table(tensor.name.removesuffix(".weight"))  # which stay as they were rounded
                self._add(parts, tensor, not rows and not isinstance(tensor.weight, FloatTensor))
        return parts

    def _add(self, parts: _Parts, tensor: Emitted, tuned: bool) -> None:
        if tuned:
            parts.tuned.append(self._resumed(tensor))
            return
        is_vector = self._context.settings.norms and len(tensor.weight.shape) == 1
        (parts.vectors if is_vector else parts.fixed)[tensor.name] = self._context.device.put(float32(tensor.weight))

    def _tuned_embeddings(self, outside: Sequence[Emitted]) -> set[str]:
        """Names of the embedding and head where they are tuned: at few bits, unless the settings say otherwise."""
        if self._context.settings.embeddings != "tuned":
            return set()
        schemes = {tensor.name: self._context.plan.get(tensor.name.removesuffix(".weight")) for tensor in outside}
        return {
            name for name, scheme in schemes.items() if isinstance(scheme, QuantScheme) and scheme.bits <= TUNED_BITS
        }

    def _resumed(self, tensor: Emitted) -> TunableWeight:
        """A finished weight under tuning again."""
        module, device = tensor.name.removesuffix(".weight"), self._context.device.at
        scheme = self._context.plan[module]
        if isinstance(scheme, QuantScheme) and isinstance(tensor.weight, QTensor):
            return LearnedScaleWeight.resumed(module, tensor.weight, tensor.offsets, scheme, device)
        if isinstance(scheme, Codebooks) and isinstance(tensor.weight, CodebookTensor):
            learns = self._context.settings.learn_codes
            return CodebookWeight.resumed(module, tensor.weight, tensor.offsets, scheme, device, learns)
        raise ValueError(f"{module} was not tuned to be continued")

    def _replaced(
        self,
        tensors: Sequence[Emitted],
        results: Mapping[str, StoredWeight],
        offsets: Mapping[str, NDArray[np.int8] | None],
    ) -> tuple[Emitted, ...]:
        """`tensors`, with those that tuning changed replaced by their `results`."""
        replaced = []
        for tensor in tensors:
            name, result = tensor.name, results.get(tensor.name)
            if result is None:
                replaced.append(tensor)
                continue
            error = relative_error(self._context.original(name), float32(result))
            replaced.append(Emitted(name, result, error, offsets.get(name)))
        return tuple(replaced)
