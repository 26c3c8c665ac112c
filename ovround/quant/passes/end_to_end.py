"""One pass over the whole quantised model: its levels and scales against the original model's token distribution.

Blocks were tuned one after the other, each to its own output; what that leaves is an error that no block can see. Here the
divergence KL(original || quantised) of the next token is followed through all blocks at once. Scales move by Adam: for
fixed levels the divergence is smooth in them; norms and biases, which stay in float, do likewise. Latent levels move by the
sign of the gradient, most of them by so little that they never change: PV-Tuning (arXiv 2405.14852) shows why few changes at
a time is what discrete weights can follow. Codebooks' entries move like scales, their codes stand; with `--pv`, codes and levels
move by the discrete step of `pv` instead.

The original model's distribution comes from its last hidden states, which the chain of the block pass has computed already.
All quantised weights, their latent levels and the activations of a batch lie in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.quant.codebooks.tuned_weight import CodebookWeight
from ovround.quant.device import CPU, Device
from ovround.quant.distributed.group import ALONE, Group
from ovround.quant.integers.tuned_weight import LearnedScaleWeight, forget, gradients, restore, snapshot, update
from ovround.quant.passes.optimizer import Adam
from ovround.quant.passes.pv import Changes, DiscreteSteps
from ovround.quant.passes.signround import batches, in_type
from ovround.quant.plan import END_TO_END_TOKENS

CANDIDATES = 10  # snapshots that are compared on the held-out windows
# Levels that a latent level may move at most over the whole pass: what is left to gain at 4 bits is soon undone by levels
# that flip for the noise of a batch (docs/log.md).
LATENT_TRAVEL = {2: 0.03, 3: 0.02, 4: 0.01, 8: 0.01}
CODE_TRAVEL = 0.1  # units that an offset of codes may, likewise
SCALE_TRAVEL = 0.06  # levels that a scale may move the outermost level by
VECTOR_TRAVEL = 0.1  # the same for norms and biases, by their mean magnitude
_FEWEST = 100  # fewer steps are not larger ones: levels that flip all at once do harm
ENTRY_TRAVEL, ROW_TRAVEL = 0.1, 0.03  # codebooks' entries by their root mean square, and a row's scale by itself


@dataclass(frozen=True, slots=True)
class Original:
    """The model to be like: `hidden` `[S, T, hidden]` behind its last block, and the tensors of its norm and head by name."""

    hidden: torch.Tensor
    weights: Mapping[str, torch.Tensor]


Tuned = LearnedScaleWeight | CodebookWeight


def tune_end_to_end(
    decoder: Decoder,
    fixed: Mapping[str, torch.Tensor],
    tuned: Sequence[Tuned],
    vectors: Mapping[str, torch.Tensor],
    windows: torch.Tensor,
    original: Original,
    held_out: int,
    steps: int,
    batch_size: int,
    step_dtype: torch.dtype | None,
    activation_groups: Mapping[str, int],
    generator: torch.Generator,
    on_step: Callable[[int, float], None],
    device: Device = CPU,
    group: Group = ALONE,
    changes: Changes | None = None,
    label_share: float = 0.0,
) -> None:
    """Move the weights `tuned`; `windows` `[S, T]` are token ids, the last `held_out` of them choose between candidates.

    With `changes` codes and levels are moved by PV-Tuning's discrete step; without, codes stand, and levels follow the sign.
    With `label_share` that part of the loss asks for the text's own next token instead of the original's distribution (soft
    and hard targets, arXiv 1503.02531): how much less likely it is than to the original, so that 0 is the original's loss still.
    `vectors`, norms and biases by name, are moved too, in place. `fixed` holds every other tensor of the quantised model.
    `on_step` is told the steps done and the lowest divergence.
    """
    train = windows.shape[0] - held_out
    rows_at_once = max(1, END_TO_END_TOKENS // windows.shape[1])

    def divergence(weights: Mapping[str, torch.Tensor], rows: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        """Sum over the tokens of `rows`."""
        ops = TorchOps(in_type(weights, dtype), activation_groups=activation_groups)
        tokens = device.put(windows[rows])
        ours = decoder.logits(ops, tokens).float()
        with torch.no_grad():
            hidden = device.put(original.hidden[rows])
            hidden = hidden if dtype is None else hidden.to(dtype)
            theirs = decoder.head(TorchOps(in_type(original.weights, dtype)), hidden).float()
        return _divergence(ours, theirs, tokens, label_share)

    @torch.no_grad()
    def held_out_divergence() -> float:
        weights = {**fixed, **vectors, **{f"{weight.name}.weight": weight.fake_quantized() for weight in tuned}}
        starts = range(train, windows.shape[0], rows_at_once)
        parts = [torch.arange(start, min(start + rows_at_once, windows.shape[0])) for start in starts]
        here = sum(float(divergence(weights, part, None)) for part in parts)
        total, count = group.totals((here, windows[train:].numel()))
        return total / count

    @torch.no_grad()
    def sum_over(rows: torch.Tensor) -> float:
        """The divergence on some windows that are tuned on."""
        weights = {**fixed, **vectors, **{f"{weight.name}.weight": weight.fake_quantized() for weight in tuned}}
        parts = rows.split(rows_at_once)
        return group.totals((sum(float(divergence(weights, part, step_dtype)) for part in parts),))[0]

    best = held_out_divergence()
    on_step(0, best)
    chosen = snapshot(tuned)
    chosen_vectors = {name: vector.clone() for name, vector in vectors.items()}
    smooth = [pair for weight in tuned for pair in _smooth(weight)]
    scales = Adam([parameter for parameter, _ in smooth], [size for _, size in smooth])
    discrete = None if changes is None else DiscreteSteps(tuned, changes)
    share = VECTOR_TRAVEL / min(2 ** (weight.bits - 1) for weight in tuned)
    others = Adam(list(vectors.values()), [share * float(vector.abs().mean()) for vector in vectors.values()])
    for vector in vectors.values():
        vector.requires_grad_()
    probes = batches(train, batch_size, steps, torch.Generator().manual_seed(generator.initial_seed() + 1))
    every = max(1, steps // CANDIDATES)
    for step, rows in enumerate(batches(train, batch_size, steps, generator)):
        quantized = [weight.fake_quantized() for weight in tuned]
        leaves = [value.detach().requires_grad_() for value in quantized]
        weights = {
            **fixed,
            **vectors,
            **{f"{weight.name}.weight": leaf for weight, leaf in zip(tuned, leaves, strict=True)},
        }
        for part in rows.split(rows_at_once):
            divergence(weights, part, step_dtype).backward()
        for value, leaf in zip(quantized, leaves, strict=True):
            value.backward(leaf.grad)
        group.sum_([*gradients(tuned), *(vector.grad for vector in vectors.values() if vector.grad is not None)])
        if discrete is not None:
            group.sum_([leaf.grad for leaf in leaves if leaf.grad is not None])
        rate = 2 * (1 - step / steps) / max(steps, _FEWEST)  # sums to 1
        scales.step(rate)
        others.step(rate)
        for weight in tuned:
            weight.bound()
            if discrete is None:
                _move_levels(weight, rate)
        if discrete is not None:
            forget(tuned)
            others_now = next(probes)
            before = sum_over(others_now)
            discrete.step([_gradient(leaf) for leaf in leaves], rate, 1 - step / steps)
            discrete.accept_or_revert(sum_over(others_now) < before)
        device.end_step()
        if (step + 1) % every == 0 or step + 1 == steps:
            now = held_out_divergence()
            if now < best:
                best = now
                update(chosen, tuned)
                for name, vector in vectors.items():
                    chosen_vectors[name].copy_(vector.detach())
        on_step(step + 1, best)
    restore(chosen, tuned)
    for name, vector in vectors.items():
        vector.requires_grad_(False).copy_(chosen_vectors[name])


def _smooth(weight: Tuned) -> list[tuple[torch.Tensor, float]]:
    """The parameters that the divergence is smooth in, each with what it may travel."""
    if isinstance(weight, CodebookWeight):
        return list(zip(weight.smooth, weight.travels(ENTRY_TRAVEL, ROW_TRAVEL), strict=True))
    return [(weight.factor, SCALE_TRAVEL / weight.reach)]


class _Divergence(torch.autograd.Function):
    """KL(theirs || ours) over logits `[S, T, V]`, summed, its gradient written out: what q = softmax(ours) has too much of.

    A share of it asks for the successors within `tokens` `[S, T]` instead: by how many nats they are less likely to ours.
    """

    @staticmethod
    def forward(
        ctx: Any, ours: torch.Tensor, theirs: torch.Tensor, tokens: torch.Tensor, label_share: float
    ) -> torch.Tensor:
        log_q, log_p = ours.log_softmax(-1), theirs.log_softmax(-1)
        successors, p = tokens[:, 1:, None].long(), log_p.exp()
        less = log_p.sub_(log_q)
        total = (1 - label_share) * p.flatten().dot(less.flatten())
        if label_share:
            total += label_share * less[:, :-1].gather(-1, successors).sum()
        ctx.label_share = label_share
        ctx.save_for_backward(log_q, p, successors)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        log_q, p, successors = ctx.saved_tensors
        q, share = log_q.exp(), ctx.label_share
        grad = (q - p).mul_(1 - share)
        if share:
            hard = q.mul_(share)[:, :-1]
            grad[:, :-1] += hard.scatter_add_(-1, successors, torch.full_like(hard[..., :1], -share))
        return grad.mul_(grads[0]), None, None, None


_divergence: Callable[..., torch.Tensor] = _Divergence.apply  # torch leaves `apply` untyped


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad  # an expert that no token of the batch chose


@torch.no_grad()
def _move_levels(weight: Tuned, rate: float) -> None:
    if isinstance(weight, CodebookWeight):
        weight.move_codes(CODE_TRAVEL * rate)
        return
    if weight.latent.grad is not None:
        weight.latent.sub_(weight.latent.grad.sign_(), alpha=LATENT_TRAVEL[weight.scheme.bits] * rate)
        weight.latent.grad = None
    weight.zero_shift.grad = None
