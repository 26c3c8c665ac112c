"""Hidden states of the calibration samples, in the original model and in the model quantised so far.

Both move on from block to block in place, a batch at a time, since a batch's states depend on no other's. They are never
stored for a later run: the same code on the same number of threads gives the same bits again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from ovround.artifact.manifest import Quality
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.quant.calibration.activation_file import Activations
from ovround.quant.calibration.carried_values import CarriedValues
from ovround.quant.calibration.expert_tokens import ExpertTokens
from ovround.quant.calibration.hessian import HeadHessian, InputHessian
from ovround.quant.calibration.samples import Calibration
from ovround.quant.device import CPU, Device
from ovround.quant.distributed.group import ALONE, Group
from ovround.quant.product_dtype import in_type
from ovround.quant.threads import threads_for
from ovround.texts.windows import scored

_LOGITS_ELEMENTS = 1 << 24  # logits computed at a time for the quality: 64 MB

Weights = Mapping[str, torch.Tensor]


class CalibrationActivations:
    """`full_precision` and `quantized`, each `[S, T, hidden]` float32; in mapped files below `folder` where one is given.

    `carried` has what the blocks of a model have left for later ones.
    """

    def __init__(
        self,
        decoder: Decoder,
        calibration: Calibration,
        batch_size: int,
        folder: Path | None = None,
        device: Device = CPU,
        group: Group = ALONE,
    ) -> None:
        """For the samples of this process of the `group`; blocks are computed on `device`, states lie in host memory."""
        self._decoder, self._calibration, self._batch_size = decoder, calibration, batch_size
        self._device, self._group = device, group
        count, length = calibration.samples.shape
        self._length: int = length
        self._train: int = count - calibration.held_out
        shape = (count, length, decoder.stream_size)
        paths = [folder and folder / f"{which}.activations" for which in ("full-precision", "quantized")]
        self.full_precision, self.quantized = (Activations(shape, path) for path in paths)
        of_both = (self.full_precision, self.quantized)
        self._carried = {
            id(states): CarriedValues(decoder, count, path) for states, path in zip(of_both, paths, strict=True)
        }

    def close(self) -> None:
        """Give memory and files back."""
        self.full_precision.close()
        self.quantized.close()
        for carried in self._carried.values():
            carried.drop(self._decoder.config.num_hidden_layers)

    def release(self) -> None:
        """Give pages of mapped files back to the system; for between two batches."""
        self.full_precision.release()
        self.quantized.release()
        for carried in self._carried.values():
            carried.release()

    def carried(self, states: Activations) -> CarriedValues:
        """What the blocks of the model of `states` have left for later ones."""
        return self._carried[id(states)]

    @torch.no_grad()
    def embed(self, states: Activations, weights: Weights) -> None:
        """Set one model's states to the embedded tokens; `weights` are its tensors before the first block."""
        ids, ops, carried = torch.from_numpy(self._calibration.samples), TorchOps(weights), self.carried(states)
        for part in self._batches():
            states[part] = self._decoder.embed(ops, ids[part])
            carried.take(ops, 0, part)
            states.release()

    @torch.no_grad()
    def advance(
        self,
        states: Activations,
        weights: Weights,
        layer: int,
        activation_groups: Mapping[str, int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[str, ...]:
        """Replace one model's states by the output of block `layer`; the experts that no token of a tuning sample reached.

        Products are computed in `dtype` (None: float32). Those of the held-out samples, which everything is compared by, are
        always computed in float32. `activation_groups` as in TorchOps.
        """
        exact = self._put(weights)
        tuning_ops = ExpertTokens(in_type(exact, dtype), activation_groups)
        held_out_ops = TorchOps(exact, activation_groups=activation_groups)
        carried = self.carried(states)
        with threads_for(self.work(weights)):
            for part in self._batches():
                ops = tuning_ops if part.start < self._train else held_out_ops
                carried.give(ops, (layer,), part, self._device)
                states[part] = self._decoder.block(ops, self._device.put(states[part]), layer)
                carried.take(ops, layer + 1, part)
                states.release()
        carried.drop(layer + 1)
        self._group.sum_(list(tuning_ops.tokens.values()))
        return tuning_ops.unreached()

    @torch.no_grad()
    def hessians(
        self, weights: dict[str, torch.Tensor], layers: range, dtype: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """X^T X `[K, K]` float32 of the input of each linear layer in the blocks `layers`, over all tuning samples.

        The inputs are the quantised model's activations, which must stand at the first of these blocks. `weights` are the
        blocks' original tensors; products are computed in `dtype` (None: float32).
        """
        ops = InputHessian(in_type(self._put(weights), dtype))
        with threads_for(self.work(weights)):
            for part in self._batches():
                if part.start < self._train:
                    rows = self._device.put(self.quantized[part])
                    self.carried(self.quantized).give(ops, layers, part, self._device)
                    for layer in layers:
                        rows = self._decoder.block(ops, rows, layer)
                    self.quantized.release()
        self._group.sum_(
            list({id(hessian): hessian for hessian in ops.hessians.values()}.values())
        )  # a shared one once
        return ops.hessians

    @torch.no_grad()
    def head_hessian(self, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """X^T X `[K, K]` of the head's input over all tuning samples.

        The quantised model's activations must have passed the last block; `weights` are the tensors of the final norm.
        """
        ops = HeadHessian(self._put(weights), self._decoder.head_at)
        for part in self._batches():
            if part.start < self._train:
                self._decoder.head(ops, self._device.put(self.quantized[part]))
                self.quantized.release()
        hessian = ops.hessians[self._decoder.head_at]
        self._group.sum_([hessian])
        return hessian.cpu()

    def _put(self, weights: Weights) -> dict[str, torch.Tensor]:
        return {name: self._device.put(weight) for name, weight in weights.items()}

    def work(self, weights: Weights) -> int:
        """Multiplications of one batch of samples with `weights`."""
        return sum(weight.numel() for weight in weights.values()) * self._batch_size * self._length

    @torch.no_grad()
    def quality(self, original: Weights, quantized: Weights) -> Quality:
        """Perplexity and divergence on the held-out samples, once both models' activations have passed the last block.

        `original` and `quantized` are the tensors of the norm and head of each model.
        """
        decoder, held_out = self._decoder, self._calibration.held_out
        samples = torch.from_numpy(self._calibration.samples)[len(self.full_precision) - held_out :]
        heads = [(self.full_precision, TorchOps(self._put(original))), (self.quantized, TorchOps(self._put(quantized)))]
        rows = max(1, _LOGITS_ELEMENTS // (self._length * decoder.config.vocab_size))
        tokens, nll, nll_quantized, divergence = 0, 0.0, 0.0, 0.0
        for start in range(0, held_out, rows):
            ids = samples[start : start + rows]
            first = len(self.full_precision) - held_out + start
            log_probabilities = []
            for states, ops in heads:
                logits = decoder.head(ops, self._device.put(states[first : first + len(ids)]))[:, :-1]
                log_probabilities.append(F.log_softmax(logits.flatten(0, 1), dim=-1))
            counted = self._device.put(torch.from_numpy(scored(ids[:, 1:].flatten().numpy(), self._calibration.prefix)))
            log_p, log_q = (rows[counted] for rows in log_probabilities)
            next_ids = self._device.put(ids[:, 1:].flatten())[counted]
            tokens += next_ids.numel()
            nll += float(F.nll_loss(log_p, next_ids, reduction="sum"))
            nll_quantized += float(F.nll_loss(log_q, next_ids, reduction="sum"))
            divergence += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
            self.release()
        count, nll, nll_quantized, divergence = self._group.totals((tokens, nll, nll_quantized, divergence))
        tokens = int(count)
        return Quality(
            tokens,
            float(torch.tensor(nll / tokens).exp()),
            float(torch.tensor(nll_quantized / tokens).exp()),
            divergence / tokens,
        )

    def _batches(self) -> list[slice]:
        """All samples in batches; no batch holds both tuning and held-out samples."""
        size, train, count = self._batch_size, self._train, len(self.full_precision)
        parts = [(first, train) for first in range(0, train, size)] + [
            (first, count) for first in range(train, count, size)
        ]
        return [slice(first, min(first + size, end)) for first, end in parts]
