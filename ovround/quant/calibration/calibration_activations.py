"""The two chains: hidden states of the calibration windows in the original model, and in the one quantised so far.

Both move on in place, a batch at a time: a batch's states depend on no other's. Nothing of a chain is ever stored for a
later run; the same code on the same number of threads gives the same bits again.
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
from ovround.quant.calibration.expert_tokens import ExpertTokens
from ovround.quant.calibration.hessian import HeadMoments, InputMoments
from ovround.quant.calibration.samples import Calibration
from ovround.quant.device import CPU, Device
from ovround.quant.distributed.group import ALONE, Group
from ovround.quant.passes.signround import in_type, threads_for

_LOGITS_ELEMENTS = 1 << 24  # logits computed at a time when quality is measured: 64 MB

Weights = Mapping[str, torch.Tensor]


class CalibrationActivations:
    """`original` and `quantized`, each `[S, T, hidden]` float32; in mapped files below `folder` where one is given."""

    def __init__(
        self,
        decoder: Decoder,
        calibration: Calibration,
        batch_size: int,
        folder: Path | None = None,
        device: Device = CPU,
        group: Group = ALONE,
    ) -> None:
        """For the windows of this process of the `group`; blocks are computed on `device`, states lie in host memory."""
        self._decoder, self._calibration, self._batch_size = decoder, calibration, batch_size
        self._device, self._group = device, group
        count, length = calibration.windows.shape
        self._length: int = length
        self._train: int = count - calibration.held_out
        shape = (count, length, decoder.config.hidden_size)
        self.original = Activations(shape, folder and folder / "original.activations")
        self.quantized = Activations(shape, folder and folder / "quantised.activations")

    def close(self) -> None:
        """Give memory and files back."""
        self.original.close()
        self.quantized.close()

    def release(self) -> None:
        """Give pages of mapped files back to the system; for between two batches."""
        self.original.release()
        self.quantized.release()

    @torch.no_grad()
    def embed(self, states: Activations, weights: Weights) -> None:
        """The windows' tokens embedded by `weights`, those in front of the first block: a chain's beginning."""
        ids, ops = torch.from_numpy(self._calibration.windows), TorchOps(weights)
        for part in self._batches():
            states[part] = self._decoder.embed(ops, ids[part])
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
        """Replace a chain's states by what block `layer` gives for them; `activation_groups` as in TorchOps.

        Products are computed in `dtype` (None: float32), but those of the held-out windows, by which everything is judged, in
        float32, as states are. The experts that no token of the windows that are tuned on chose.
        """
        exact = self._put(weights)
        seen, judges = (
            ExpertTokens(in_type(exact, dtype), activation_groups),
            TorchOps(exact, activation_groups=activation_groups),
        )
        with threads_for(self.work(weights)):
            for part in self._batches():
                ops = seen if part.start < self._train else judges
                states[part] = self._decoder.block(ops, self._device.put(states[part]), layer)
                states.release()
        self._group.sum_(list(seen.tokens.values()))
        return seen.unreached()

    @torch.no_grad()
    def moments(
        self, weights: dict[str, torch.Tensor], window: range, dtype: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """Second moments `[K, K]` of the input of each projection in the blocks `window`, on all windows that are tuned on.

        The quantised chain, which must stand in front of the first; `weights` are the blocks' original ones, computed on in
        `dtype` (None: float32). Moments are float32.
        """
        ops = InputMoments(in_type(self._put(weights), dtype))
        with threads_for(self.work(weights)):
            for part in self._batches():
                if part.start < self._train:
                    rows = self._device.put(self.quantized[part])
                    for layer in window:
                        rows = self._decoder.block(ops, rows, layer)
                    self.quantized.release()
        self._group.sum_(list({id(one): one for one in ops.moments.values()}.values()))  # a shared one once
        return ops.moments

    @torch.no_grad()
    def head_moments(self, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """Second moments `[K, K]` of what the head multiplies, on all windows that are tuned on.

        The quantised chain, which must stand behind the last block; `weights` are those of the final norm.
        """
        ops = HeadMoments(self._put(weights))
        for part in self._batches():
            if part.start < self._train:
                self._decoder.head(ops, self._device.put(self.quantized[part]))
                self.quantized.release()
        moments = ops.moments[self._decoder.head_at]
        self._group.sum_([moments])
        return moments.cpu()

    def _put(self, weights: Weights) -> dict[str, torch.Tensor]:
        return {name: self._device.put(weight) for name, weight in weights.items()}

    def work(self, weights: Weights) -> int:
        """Multiplications of a block on one batch of windows."""
        return sum(weight.numel() for weight in weights.values()) * self._batch_size * self._length

    @torch.no_grad()
    def quality(self, original: Weights, quantized: Weights) -> Quality:
        """Both chains, once behind the last block, through their norms and heads, on the held-out windows."""
        decoder, held_out = self._decoder, self._calibration.held_out
        windows = torch.from_numpy(self._calibration.windows)[len(self.original) - held_out :]
        heads = [(self.original, TorchOps(self._put(original))), (self.quantized, TorchOps(self._put(quantized)))]
        rows = max(1, _LOGITS_ELEMENTS // (self._length * decoder.config.vocab_size))
        tokens, nll, nll_quantized, divergence = 0, 0.0, 0.0, 0.0
        for start in range(0, held_out, rows):
            ids = windows[start : start + rows]
            first = len(self.original) - held_out + start
            chains = []
            for states, ops in heads:
                logits = decoder.head(ops, self._device.put(states[first : first + len(ids)]))[:, :-1]
                chains.append(F.log_softmax(logits.flatten(0, 1), dim=-1))
            next_ids = self._device.put(ids[:, 1:].flatten())
            tokens += next_ids.numel()
            nll += float(F.nll_loss(chains[0], next_ids, reduction="sum"))
            nll_quantized += float(F.nll_loss(chains[1], next_ids, reduction="sum"))
            divergence += float(F.kl_div(chains[1], chains[0], reduction="sum", log_target=True))
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
        """All windows, those that are tuned on and the held-out ones apart."""
        size, train, every = self._batch_size, self._train, len(self.original)
        parts = [(first, train) for first in range(0, train, size)] + [
            (first, every) for first in range(train, every, size)
        ]
        return [slice(first, min(first + size, end)) for first, end in parts]
