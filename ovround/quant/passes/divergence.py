"""How far the quantised model's next-token distribution is from the original model's, KL(original || quantised).

The original distribution comes from its last hidden states, which the calibration activations hold once they have passed all
blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ovround.models.torch_ops import TorchOps
from ovround.quant.passes.context import QuantContext
from ovround.quant.plan import END_TO_END_TOKENS
from ovround.quant.product_dtype import in_type

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class OriginalOutput:
    """The original model's end: `hidden` `[S, T, hidden]` after its last block, and its norm and head tensors by name."""

    hidden: torch.Tensor
    weights: Weights


class Divergence:
    """The loss of the model pass, over rows of the calibration samples; the last `held_out` of them choose between candidates.

    `settings.label_share` of it is about the text's own next token instead of the original's distribution (soft and hard
    targets, arXiv 1503.02531): by how many nats the quantised model finds that token less likely. It is 0 for the original.
    """

    def __init__(self, context: QuantContext, original: OriginalOutput, step_dtype: torch.dtype | None) -> None:
        self._context, self._original, self._step_dtype = context, original, step_dtype
        self._tokens = torch.from_numpy(context.tuning_data.samples)
        self._activation_groups = context.activation_groups()
        self._rows_at_once = max(1, END_TO_END_TOKENS // self._tokens.shape[1])
        self.train = len(self._tokens) - context.tuning_data.held_out

    def backward(self, weights: Weights, rows: torch.Tensor) -> None:
        """Add the gradients of the sum over the tokens of `rows`, a part of them at a time."""
        for part in rows.split(self._rows_at_once):
            self._total(weights, part, self._step_dtype).backward()

    @torch.no_grad()
    def training_total(self, weights: Weights, rows: torch.Tensor) -> float:
        """The sum over the tokens of `rows` of all processes, in the type of the gradient steps."""
        parts = rows.split(self._rows_at_once)
        return self._context.group.totals(
            (sum(float(self._total(weights, part, self._step_dtype)) for part in parts),)
        )[0]

    @torch.no_grad()
    def held_out_mean(self, weights: Weights) -> float:
        """The mean over all held-out tokens, in float32."""
        starts = range(self.train, len(self._tokens), self._rows_at_once)
        parts = [torch.arange(start, min(start + self._rows_at_once, len(self._tokens))) for start in starts]
        own = sum(float(self._total(weights, part, None)) for part in parts)
        total, count = self._context.group.totals((own, self._tokens[self.train :].numel()))
        return total / count

    def _total(self, weights: Weights, rows: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        decoder, device = self._context.decoder, self._context.device
        tokens = device.put(self._tokens[rows])
        ops = TorchOps(in_type(weights, dtype), activation_groups=self._activation_groups)
        quantized = decoder.logits(ops, tokens).float()
        with torch.no_grad():
            hidden = device.put(self._original.hidden[rows])
            hidden = hidden if dtype is None else hidden.to(dtype)
            original = decoder.head(TorchOps(in_type(self._original.weights, dtype)), hidden).float()
        return total_divergence(quantized, original, tokens, self._context.settings.label_share)


class _TotalDivergence(torch.autograd.Function):
    """KL(original || quantised) over logits `[S, T, V]`, summed, with its gradient written out: softmax(quantised) - p.

    `label_share` of it is about the successors within `tokens` `[S, T]`: by how many nats the quantised model finds them less
    likely.
    """

    @staticmethod
    def forward(
        ctx: Any, quantized: torch.Tensor, original: torch.Tensor, tokens: torch.Tensor, label_share: float
    ) -> torch.Tensor:
        log_q, log_p = quantized.log_softmax(-1), original.log_softmax(-1)
        successors, p = tokens[:, 1:, None].long(), log_p.exp()
        difference = log_p.sub_(log_q)
        total = (1 - label_share) * p.flatten().dot(difference.flatten())
        if label_share:
            total += label_share * difference[:, :-1].gather(-1, successors).sum()
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


total_divergence: Callable[..., torch.Tensor] = _TotalDivergence.apply  # torch leaves `apply` untyped
