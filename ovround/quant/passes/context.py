"""What all passes over a model share: the checkpoint, the plan, the settings, and where they compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ovround.artifact.manifest import Quality
from ovround.checkpoint import Checkpoint
from ovround.models.decoder import Decoder
from ovround.options.tuning_settings import TuningSettings
from ovround.progress import OnProgress, Progress, silent
from ovround.quant.block_store import BlockStore
from ovround.quant.calibration.calibration_activations import CalibrationActivations
from ovround.quant.calibration.samples import Calibration
from ovround.quant.device import CPU, Device
from ovround.quant.distributed.group import ALONE, Group
from ovround.quant.emitted import Emitted, FinishedBlock, StoredWeight
from ovround.quant.engine_arithmetic import activation_groups
from ovround.quant.plan import Plan
from ovround.quant.product_dtype import product_dtype
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.scheme import Codebooks


@dataclass(frozen=True, slots=True)
class QuantContext:
    """One conversion as its passes see it, in this process of the `group`.

    `calibration` is this process's share of the samples, None where nothing is tuned. Activations lie in mapped files below
    `activations_in` where that is given.
    """

    checkpoint: Checkpoint
    decoder: Decoder
    plan: Plan
    settings: TuningSettings
    calibration: Calibration | None = None
    on_progress: OnProgress = silent
    activations_in: Path | None = None
    device: Device = CPU
    group: Group = ALONE

    @property
    def tuning_data(self) -> Calibration:
        """The calibration samples; raises ValueError where there are none."""
        if self.calibration is None:
            raise ValueError("without calibration nothing is tuned")
        return self.calibration

    @property
    def blocks(self) -> int:
        """Number of the model's blocks."""
        return self.decoder.config.num_hidden_layers

    @property
    def batch_size(self) -> int:
        """Samples a step of this process."""
        return max(1, self.settings.batch_size // self.group.size)

    # The original model

    def read(self, name: str) -> FloatTensor:
        """The checkpoint's tensor of that name."""
        return self.checkpoint.read(name)

    def original(self, name: str) -> torch.Tensor:
        """The same in float32."""
        return float32(self.read(name))

    def original_block(self, layer: int) -> dict[str, torch.Tensor]:
        """All tensors of a block in float32, in the model's order."""
        return {name: self.original(name) for name in self.decoder.tensors(layer)}

    def original_head(self) -> dict[str, torch.Tensor]:
        """The tensors of the final norm and the head in float32."""
        return {name: self.original(name) for name in self.decoder.head_tensors()}

    # How blocks are computed

    def activation_groups(self) -> dict[str, int]:
        """Inputs that share a scale where the engine rounds activations, by module; see `engine_arithmetic`."""
        shapes = {name: shape for layer in range(self.blocks) for name, shape in self.decoder.tensors(layer).items()}
        return activation_groups(self.plan, shapes | self.decoder.tensors(), self.settings.activation_engine)

    def product_dtype(self, layers: Iterable[int], *, steps: bool = False) -> torch.dtype | None:
        """The type of products in these blocks, for gradient `steps` or for calibration activations; None: float32.

        Activations of a model with experts are computed in float32, since rounding to bfloat16 would change what a router
        chooses.
        """
        if self.decoder.largest_stack and not steps:
            return None
        schemes = [self.plan.get(name) for layer in layers for name in self.decoder.linears(layer)]
        bits = [
            scheme.code_bits if isinstance(scheme, Codebooks) else scheme.bits
            for scheme in schemes
            if scheme is not None
        ]
        return product_dtype(bits, self.device)

    @contextlib.contextmanager
    def activations(self, front: Sequence[Emitted]) -> Iterator[CalibrationActivations]:
        """Activations of both models at the first block; `front` are the quantised model's tensors before it."""
        activations = CalibrationActivations(
            self.decoder, self.tuning_data, self.batch_size, self.activations_in, self.device, self.group
        )
        with contextlib.closing(activations):
            names = self.decoder.first_tensors()
            activations.embed(activations.full_precision, {name: self.original(name) for name in names})
            activations.embed(activations.quantized, floats(front))
            yield activations

    def advance_full_precision(
        self, activations: CalibrationActivations, layer: int, block: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[str, ...]:
        """Move the original model's activations past a block, read here unless given; experts that no token reached."""
        weights = self.original_block(layer) if block is None else block
        dtype = self.product_dtype((layer,))
        return activations.advance(activations.full_precision, weights, layer, dtype=dtype)

    def advance_quantized(self, activations: CalibrationActivations, layer: int, block: FinishedBlock) -> None:
        """Move the quantised model's activations past a finished block."""
        groups, dtype = self.activation_groups(), self.product_dtype((layer,))
        activations.advance(activations.quantized, floats(block.tensors), layer, groups, dtype)

    # How results are handed over

    def report_block(self, layer: int, block: FinishedBlock) -> None:
        """Report that a block is finished, with its losses where it was tuned."""
        progress = Progress("quantise", layer + 1, self.blocks)
        if block.record is not None:
            losses, unreached = (block.record.loss_before, block.record.loss_after), len(block.record.unreached)
            progress = Progress("quantise", layer + 1, self.blocks, 0, 0, *losses, unreached)
        self.on_progress(progress)

    def store_block(self, store: BlockStore, layer: int, block: FinishedBlock, stage: str) -> None:
        """Write a finished block, having checked that all processes have found the same one."""
        self.group.check_integers(f"block {layer}", block.digest())
        if self.group.is_main:
            store.write(layer, block.tensors, block.record, stage)

    def finish(
        self, store: BlockStore, activations: CalibrationActivations, outside: tuple[Emitted, ...], stage: str
    ) -> None:
        """Write what lies outside the blocks, and the quality; the activations have passed all blocks."""
        self.group.check_integers("embedding and head", FinishedBlock(outside, None).digest())
        head = floats(tensor for tensor in outside if tensor.name in self.decoder.head_tensors())
        quality: Quality = activations.quality(self.original_head(), head)
        if self.group.is_main:
            store.write(None, outside, None, stage)
            store.write_quality(quality, stage)


def float32(weight: StoredWeight) -> torch.Tensor:
    """The values of a stored weight as a torch tensor."""
    return torch.from_numpy(weight.float32() if isinstance(weight, FloatTensor) else weight.dequantize())


def floats(tensors: Iterable[Emitted]) -> dict[str, torch.Tensor]:
    """The values of finished tensors by name."""
    return {tensor.name: float32(tensor.weight) for tensor in tensors}


def relative_error(original: torch.Tensor, quantized: torch.Tensor) -> float:
    """|W - Wq| / |W|; 0 for a weight of zeros."""
    norm = float(original.norm())
    return float((original - quantized).norm()) / norm if norm else 0.0
