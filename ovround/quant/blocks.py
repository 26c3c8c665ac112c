"""The model, block after block: read, quantise, hand over, forget. Peak memory is one block and the calibration activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ovround.artifact import BlockRecord, Quality
from ovround.checkpoint import Checkpoint
from ovround.config import ConvertOptions
from ovround.floattensor import FloatTensor
from ovround.models.decoder import HEAD, Decoder
from ovround.models.torch_ops import TorchOps
from ovround.progress import OnProgress, Progress
from ovround.qtensor import QTensor
from ovround.quant.calibration import Calibration
from ovround.quant.plan import Plan
from ovround.quant.rtn import round_to_nearest
from ovround.quant.signround import TunedWeight, threads_for, tune_block

_LOGITS_ELEMENTS = 1 << 24  # logits computed at a time when quality is measured: 64 MB


@dataclass(frozen=True, slots=True)
class Emitted:
    """One finished tensor of the model; `relative_error` is |W - Wq| / |W|, 0 for one left in float."""

    name: str
    weight: QTensor | FloatTensor
    relative_error: float


Event = Emitted | BlockRecord | Quality


class BlockQuantizer:
    """Walks a checkpoint through a plan; `run` yields every tensor as it is finished, and what was measured on the way.

    Without `calibration` every weight is rounded to nearest and no activation is computed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: Decoder,
        plan: Plan,
        options: ConvertOptions,
        calibration: Calibration | None,
        on_progress: OnProgress,
    ) -> None:
        self._checkpoint, self._decoder, self._plan, self._options = checkpoint, decoder, plan, options
        self._calibration, self._on_progress = calibration, on_progress
        self._original = self._quantized = torch.empty(0)  # hidden states of the two chains, [S, T, hidden]

    def run(self) -> Iterator[Event]:
        yield from self._embedding()
        for layer in range(self._decoder.config.num_hidden_layers):
            if self._calibration is None:
                yield from self._rounded_block(layer)
            else:
                yield from self._tuned_block(layer, self._calibration)
        yield from self._head()

    def _embedding(self) -> Iterator[Event]:
        name = f"{self._decoder.embedding_at}.weight"
        original = self._checkpoint.read(name)
        emitted = self._round(name, original, self._decoder.embedding_at)
        yield emitted
        if self._calibration is not None:
            ids = torch.from_numpy(self._calibration.windows)
            self._original = F.embedding(ids, _float32(original))
            self._quantized = F.embedding(ids, _float32(emitted.weight))

    def _rounded_block(self, layer: int) -> Iterator[Event]:
        blocks = self._decoder.config.num_hidden_layers
        for name in self._decoder.tensors(layer):
            yield self._round(name, self._checkpoint.read(name), name.removesuffix(".weight"))
        self._on_progress(Progress("quantise", layer + 1, blocks))

    def _tuned_block(self, layer: int, calibration: Calibration) -> Iterator[Event]:
        blocks = self._decoder.config.num_hidden_layers
        tensors = {name: self._checkpoint.read(name) for name in self._decoder.tensors(layer)}
        weights = {name: _float32(tensor) for name, tensor in tensors.items()}
        targets = self._forward(weights, layer, self._original)
        tuned = [
            TunedWeight(name, weights[f"{name}.weight"], scheme)
            for name in self._decoder.linears(layer)
            if (scheme := self._plan[name]) is not None
        ]
        if tuned:
            fixed = {name: value for name, value in weights.items() if name not in {f"{t.name}.weight" for t in tuned}}
            with threads_for(self._work(weights)):
                result = tune_block(
                    lambda current, x, dtype: self._decoder.block(TorchOps(current, matmul_dtype=dtype), x, layer),
                    fixed,
                    tuned,
                    self._quantized,
                    targets,
                    calibration.held_out,
                    self._options.steps,
                    self._options.batch_size,
                    torch.Generator().manual_seed(self._options.seed + layer),
                    matmul_dtype(tuned),
                    lambda step, loss: self._on_progress(
                        Progress("quantise", layer, blocks, step, self._options.steps, None, loss)
                    ),
                )
            for name, tensor in tensors.items():
                quantized = result.weights.get(name.removesuffix(".weight"))
                if quantized is None:
                    yield Emitted(name, tensor, 0.0)
                    continue
                original, weights[name] = weights[name], _float32(quantized)
                yield Emitted(name, quantized, _relative_error(original, weights[name]))
            yield BlockRecord(layer, result.loss_before, result.loss_after, result.steps)
            self._on_progress(Progress("quantise", layer + 1, blocks, 0, 0, result.loss_before, result.loss_after))
        else:
            for name, tensor in tensors.items():
                yield Emitted(name, tensor, 0.0)
            self._on_progress(Progress("quantise", layer + 1, blocks))
        self._quantized = self._forward(weights, layer, self._quantized)
        self._original = targets

    def _head(self) -> Iterator[Event]:
        decoder = self._decoder
        norm = self._checkpoint.read(f"{decoder.norm_at}.weight")
        yield Emitted(f"{decoder.norm_at}.weight", norm, 0.0)
        original = self._checkpoint.read(f"{decoder.head_at}.weight")
        if HEAD in self._plan:
            emitted = self._round(f"{HEAD}.weight", original, HEAD)
            yield emitted
        else:  # tied to the embedding, which has been emitted; rounding is deterministic, so this is that tensor again
            emitted = self._round(f"{decoder.head_at}.weight", original, decoder.head_at)
        if self._calibration is not None:
            yield self._quality(self._calibration, _float32(norm), _float32(original), _float32(emitted.weight))

    def _round(self, name: str, tensor: FloatTensor, module: str) -> Emitted:
        scheme = self._plan.get(module)
        if scheme is None or not name.endswith(".weight"):
            return Emitted(name, tensor, 0.0)
        quantized, error = round_to_nearest(name, tensor, scheme)
        return Emitted(name, quantized, error)

    @torch.no_grad()
    def _forward(self, weights: Mapping[str, torch.Tensor], layer: int, inputs: torch.Tensor) -> torch.Tensor:
        """The block on all windows, a batch at a time: `[S, T, hidden]` -> the same."""
        ops = TorchOps(weights)
        size = self._options.batch_size
        with threads_for(self._work(weights)):
            return torch.cat([self._decoder.block(ops, part, layer) for part in inputs.split(size)])

    def _work(self, weights: Mapping[str, torch.Tensor]) -> int:
        """Multiplications of a block on one batch of windows."""
        return sum(weight.numel() for weight in weights.values()) * self._options.batch_size * self._original.shape[1]

    @torch.no_grad()
    def _quality(
        self, calibration: Calibration, norm: torch.Tensor, original: torch.Tensor, quantized: torch.Tensor
    ) -> Quality:
        decoder = self._decoder
        windows = torch.from_numpy(calibration.windows)[-calibration.held_out :]
        rows = max(1, _LOGITS_ELEMENTS // (windows.shape[1] * decoder.config.vocab_size))
        tokens, nll, nll_quantized, divergence = 0, 0.0, 0.0, 0.0
        for start in range(0, calibration.held_out, rows):
            ids = windows[start : start + rows]
            first = len(self._original) - calibration.held_out + start
            chains = []
            for hidden, head in ((self._original, original), (self._quantized, quantized)):
                ops = TorchOps({f"{decoder.norm_at}.weight": norm, f"{decoder.head_at}.weight": head})
                logits = decoder.head(ops, hidden[first : first + len(ids)])[:, :-1]
                chains.append(F.log_softmax(logits.flatten(0, 1), dim=-1))
            next_ids = ids[:, 1:].flatten()
            tokens += next_ids.numel()
            nll += float(F.nll_loss(chains[0], next_ids, reduction="sum"))
            nll_quantized += float(F.nll_loss(chains[1], next_ids, reduction="sum"))
            divergence += float(F.kl_div(chains[1], chains[0], reduction="sum", log_target=True))
        return Quality(
            tokens,
            float(torch.tensor(nll / tokens).exp()),
            float(torch.tensor(nll_quantized / tokens).exp()),
            divergence / tokens,
        )


def matmul_dtype(tuned: Sequence[TunedWeight]) -> torch.dtype | None:
    """bfloat16 for the gradient steps where this CPU multiplies it in tiles (AMX) and the grid is far coarser than its rounding.

    On such a CPU 4-bit tuning of a 7 M model took 0.42 of the time, with block errors within 0.6 % of float32's. Losses that
    choose between candidates, and both chains of activations, stay in float32.
    """
    # torch 2.8 cannot be asked; it then tunes in float32
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    coarse = all(weight.scheme.bits <= 4 for weight in tuned)
    return torch.bfloat16 if coarse and capabilities.get("amx_bf16") else None


def _float32(weight: QTensor | FloatTensor) -> torch.Tensor:
    return torch.from_numpy(weight.dequantize() if isinstance(weight, QTensor) else weight.float32())


def _relative_error(original: torch.Tensor, quantized: torch.Tensor) -> float:
    norm = float(original.norm())
    return float((original - quantized).norm()) / norm if norm else 0.0
