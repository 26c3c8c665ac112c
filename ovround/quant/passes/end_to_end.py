"""End-to-end tuning steps over the whole quantised model, against the original model's token distribution.

The block pass tunes each block to its own output, which leaves an error that no block can see. Here the divergence of the next
token is followed through all blocks at once. Scales, codebook entries, norms and biases move by Adam, since the divergence is
smooth in them. Levels and codes move as a `LevelUpdate` decides.

All quantised weights, their latent levels and the activations of a batch lie in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ovround.quant.codebooks.tuned_weight import CodebookWeight
from ovround.quant.integers.tuned_weight import gradients
from ovround.quant.passes.batches import batches
from ovround.quant.passes.best_snapshot import BestSnapshot
from ovround.quant.passes.candidates import is_candidate
from ovround.quant.passes.context import QuantContext
from ovround.quant.passes.divergence import Divergence
from ovround.quant.passes.level_update import LevelUpdate, TunableWeight
from ovround.quant.passes.optimizer import Adam

SCALE_TRAVEL = 0.06  # levels that a scale may move the outermost level by, over all steps
VECTOR_TRAVEL = 0.1  # the same for norms and biases, by their mean magnitude
ENTRY_TRAVEL, ROW_TRAVEL = 0.1, 0.03  # codebooks' entries by their root mean square, and a row's scale by itself
_FEWEST = 100  # with fewer steps, a step is not made larger: levels that flip all at once do harm


@dataclass(frozen=True, slots=True, eq=False)
class TunedModel:
    """The quantised model by name: `tuned` weights, `vectors` (norms and biases) that are tuned too, and all that is `fixed`."""

    fixed: Mapping[str, torch.Tensor]
    tuned: Sequence[TunableWeight]
    vectors: Mapping[str, torch.Tensor]

    def weights(self, quantized: Sequence[torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """All tensors; `quantized` are the values of the tuned weights, None: as they are now."""
        values = (weight.fake_quantized() for weight in self.tuned) if quantized is None else iter(quantized)
        return {
            **self.fixed,
            **self.vectors,
            **{f"{w.name}.weight": value for w, value in zip(self.tuned, values, strict=True)},
        }

    def state(self) -> list[torch.Tensor]:
        """All tensors that tuning changes."""
        return [*(tensor for weight in self.tuned for tensor in weight.state), *self.vectors.values()]

    def smooth(self) -> tuple[list[torch.Tensor], list[float]]:
        """Scales and codebook entries, and how far each may travel."""
        pairs = [pair for weight in self.tuned for pair in _smooth(weight)]
        return [parameter for parameter, _ in pairs], [size for _, size in pairs]

    def vector_travels(self) -> list[float]:
        """How far each of the vectors may travel."""
        share = VECTOR_TRAVEL / min(2 ** (weight.bits - 1) for weight in self.tuned)
        return [share * float(vector.abs().mean()) for vector in self.vectors.values()]


def tune_end_to_end(
    model: TunedModel,
    loss: Divergence,
    update: LevelUpdate,
    steps: int,
    context: QuantContext,
    on_step: Callable[[int, float], None],
) -> None:
    """Tune the weights and vectors of `model` in place; `on_step` gets the steps done and the lowest divergence so far."""
    with torch.no_grad():
        best = BestSnapshot(model.state(), loss.held_out_mean(model.weights()))
    on_step(0, best.loss)
    scales, vectors = Adam(*model.smooth()), Adam(list(model.vectors.values()), model.vector_travels())
    for vector in model.vectors.values():
        vector.requires_grad_()
    size, seed = context.batch_size, context.settings.seed
    rows = batches(loss.train, size, steps, torch.Generator().manual_seed(seed))
    unseen_rows = batches(loss.train, size, steps, torch.Generator().manual_seed(seed + 1))
    for step, (seen, unseen) in enumerate(zip(rows, unseen_rows, strict=True)):
        weight_gradients = _differentiate(model, loss, seen, context, update)
        rate = 2 * (1 - step / steps) / max(steps, _FEWEST)  # sums to 1
        scales.step(rate)
        vectors.step(rate)
        for weight in model.tuned:
            weight.bound()

        def probe(rows: torch.Tensor = unseen) -> float:
            with torch.no_grad():
                return loss.training_total(model.weights(), rows)

        update.step(weight_gradients, rate, 1 - step / steps, probe)
        context.device.end_step()
        if is_candidate(step + 1, steps):
            with torch.no_grad():
                best.offer(loss.held_out_mean(model.weights()))
        on_step(step + 1, best.loss)
    for vector in model.vectors.values():
        vector.requires_grad_(False)
    best.restore()


def _differentiate(
    model: TunedModel, loss: Divergence, rows: torch.Tensor, context: QuantContext, update: LevelUpdate
) -> list[torch.Tensor]:
    """Set the gradients of all parameters, summed over all processes; those of the weights `[N, K]` if `update` needs them."""
    quantized = [weight.fake_quantized() for weight in model.tuned]
    leaves = [value.detach().requires_grad_() for value in quantized]
    loss.backward(model.weights(leaves), rows)
    for value, leaf in zip(quantized, leaves, strict=True):
        value.backward(leaf.grad)
    vectors = [vector.grad for vector in model.vectors.values() if vector.grad is not None]
    context.group.sum_([*gradients(model.tuned), *vectors])
    if not update.needs_gradients:
        return []
    context.group.sum_([leaf.grad for leaf in leaves if leaf.grad is not None])
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]  # None: an unreached expert


def _smooth(weight: TunableWeight) -> list[tuple[torch.Tensor, float]]:
    """The parameters that the divergence is smooth in, each with how far it may travel."""
    if isinstance(weight, CodebookWeight):
        return list(zip(weight.smooth, weight.travels(ENTRY_TRAVEL, ROW_TRAVEL), strict=True))
    return [(weight.factor, SCALE_TRAVEL / weight.reach)]
