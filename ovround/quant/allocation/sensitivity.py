"""The rise of the loss when one linear layer goes to fewer bits, estimated for all layers and bits by one backward pass.

The divergence (KL) of a model from itself with weights moved by D = Wq - W is, to second order and with the Fisher matrix
cut to its diagonal (Martens, arXiv 1412.1193),

    KL = 1/2 sum_ij F_ij D_ij^2        F_ij = sum over samples of G_ij^2

where G `[N, K]` is the gradient of a sample's -log p(label), with labels drawn from the model's own predictions. The first-order
term of a model against itself is 0. auto-round's AutoScheme ranks by sum |G D| instead, with G summed over data: at a trained
optimum that sum is mostly noise.

Memory: the inputs of all blocks `[S, T, hidden]`, one block, and the activations within it. Weights are read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.checkpoint import Checkpoint
from ovround.models.calls import carried
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.quant.integers.rtn import round_to_nearest
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.scheme import QuantScheme

_BATCH_TOKENS = 2048  # tokens through a block at a time: attention's memory grows with them
_LOGITS_ELEMENTS = 1 << 24  # logits computed at a time: 64 MB

Shared = dict[str, torch.Tensor]
"""What blocks leave for later ones, `[S, ...]` by the names of `Ops.shared`, or the gradients at it."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearGradient:
    """One linear layer: its weight `[N, K]`, inputs `[S, T, K]`, and the loss's gradient at its outputs `[S, T, N]`."""

    name: str
    weight: FloatTensor
    inputs: torch.Tensor
    gradient: torch.Tensor


def loss_rises(
    checkpoint: Checkpoint,
    decoder: Decoder,
    samples: NDArray[np.int64],
    schemes: Mapping[str, QuantScheme],
    bits: Sequence[int],
    seed: int,
) -> dict[str, dict[int, float]]:
    """Estimated divergence, in nats a token, of each module of `schemes` rounded to nearest at each of `bits`, all else in float.

    `samples` `[S, T]` are token ids; `seed` draws the labels. Raises TensorError where a scale overflows float16.
    """
    rises: dict[str, dict[int, float]] = {}
    for linear in linear_gradients(checkpoint, decoder, samples, seed):
        if linear.name not in schemes:
            continue
        scheme, original = schemes[linear.name], torch.from_numpy(linear.weight.float32())
        fisher = fisher_diagonal(linear)
        rises[linear.name] = {}
        for width in bits:
            rounded, _ = round_to_nearest(linear.name, linear.weight, replace(scheme, bits=width))
            moved = torch.from_numpy(rounded.dequantize()).sub_(original)
            rise = moved.square_().mul_(fisher).sum(dtype=torch.float64)
            rises[linear.name][width] = float(rise) / 2 / samples.size
    return rises


def fisher_diagonal(linear: LinearGradient) -> torch.Tensor:
    """Squared weight gradients `[N, K]`, summed over samples."""
    fisher = torch.zeros(linear.weight.shape)
    for inputs, gradient in zip(linear.inputs, linear.gradient, strict=True):
        fisher += (gradient.T @ inputs).square_()
    return fisher


def linear_gradients(
    checkpoint: Checkpoint, decoder: Decoder, samples: NDArray[np.int64], seed: int | None
) -> Iterator[LinearGradient]:
    """Every linear layer of the blocks, the last block first; the loss is the sum of -log p(label) over all positions.

    Labels are drawn from the model's own predictions with `seed`; None takes the next tokens of `samples`.
    """
    ids = torch.from_numpy(samples)
    shared: Shared = {}
    inputs = [_embedded(checkpoint, decoder, ids, shared)]
    for layer in range(decoder.config.num_hidden_layers):
        weights = _floats(_read_block(checkpoint, decoder, layer))
        inputs.append(_forward(weights, decoder, layer, inputs[-1], shared))
    gradient = _head_gradient(checkpoint, decoder, inputs.pop(), ids, seed)
    gradients: Shared = {}
    for layer in reversed(range(decoder.config.num_hidden_layers)):
        block = _read_block(checkpoint, decoder, layer)
        given = {name: shared[name] for name in carried(decoder, layer)}
        gradient, recorded = _backward(_floats(block), decoder, layer, (inputs.pop(), given), (gradient, gradients))
        for name, (x, g) in recorded.items():
            if x.dim() == 2:  # an expert's tokens, of any sample
                x, g = _as_samples(x, len(samples)), _as_samples(g, len(samples))
            yield LinearGradient(name, block[f"{name}.weight"], x, g)


class _RecordingOps(TorchOps):
    """Computes like TorchOps, and keeps the input and output of each linear layer."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__(weights)
        self.calls: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        y = super().linear(x, at)
        y.retain_grad()
        self.calls[at] = (x.detach(), y)
        return y


def _backward(
    weights: Mapping[str, torch.Tensor],
    decoder: Decoder,
    layer: int,
    inputs: tuple[torch.Tensor, Shared],
    gradient: tuple[torch.Tensor, Shared],
) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The gradient `[S, T, hidden]` at a block's inputs, and each linear layer's inputs and output gradient.

    `inputs` are hidden states and what the block reads of earlier ones, `gradient` the gradient at its outputs and at what
    later blocks have read of it. To the second, the gradients at what this block reads are added.
    """
    below: list[torch.Tensor] = []
    calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    read: dict[str, list[torch.Tensor]] = {}
    (hidden, given), (above, gradients) = inputs, gradient
    start = 0
    for part, upper in zip(_batches(hidden), _batches(above), strict=True):
        rows = slice(start, start + len(part))
        start = rows.stop
        x, ops = part.detach().requires_grad_(), _RecordingOps(weights)
        leaves = {name: value[rows].detach() for name, value in given.items()}
        ops.shared_values = {
            name: leaf.requires_grad_() if leaf.is_floating_point() else leaf for name, leaf in leaves.items()
        }
        out = decoder.block(ops, x, layer)
        left = [name for name in ops.shared_values if name not in given and name in gradients]
        ends = [out, *(ops.shared_values[name] for name in left)]
        torch.autograd.backward(ends, [upper, *(gradients[name][rows] for name in left)])
        below.append(_gradient(x))
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                read.setdefault(name, []).append(leaf.grad)
        for name, (into, output) in ops.calls.items():
            calls.setdefault(name, []).append((into, _gradient(output)))
    for name, parts in read.items():
        whole = torch.cat(parts)
        gradients[name] = gradients[name] + whole if name in gradients else whole
    concatenated = {
        name: (torch.cat([x for x, _ in parts]), torch.cat([g for _, g in parts])) for name, parts in calls.items()
    }
    return torch.cat(below), concatenated


def _head_gradient(
    checkpoint: Checkpoint, decoder: Decoder, hidden: torch.Tensor, ids: torch.Tensor, seed: int | None
) -> torch.Tensor:
    """The gradient `[S, T, hidden]` of the summed -log p(label) at the last block's outputs."""
    ops = TorchOps(_floats({name: checkpoint.read(name) for name in decoder.head_tensors()}))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    rows = max(1, _LOGITS_ELEMENTS // (ids.shape[1] * decoder.config.vocab_size))
    gradients = []
    for part, following in zip(hidden.split(rows), ids[:, 1:].split(rows), strict=True):
        x = part.detach().requires_grad_()
        log_p = torch.log_softmax(decoder.head(ops, x), dim=-1)
        labels = following
        if generator is None:
            log_p = log_p[:, :-1]
        else:
            drawn = torch.multinomial(log_p.detach().exp().flatten(0, 1), 1, generator=generator)
            labels = drawn.view(log_p.shape[:-1])
        torch.autograd.backward(-log_p.gather(-1, labels.unsqueeze(-1)).sum())
        gradients.append(_gradient(x))
    return torch.cat(gradients)


def _embedded(checkpoint: Checkpoint, decoder: Decoder, ids: torch.Tensor, shared: Shared) -> torch.Tensor:
    ops = TorchOps(_floats({name: checkpoint.read(name) for name in decoder.first_tensors()}))
    embedded = decoder.embed(ops, ids)
    shared.update(ops.shared_values)
    return embedded


@torch.no_grad()
def _forward(
    weights: Mapping[str, torch.Tensor], decoder: Decoder, layer: int, inputs: torch.Tensor, shared: Shared
) -> torch.Tensor:
    """The block's outputs `[S, T, hidden]`; what it leaves for later blocks is added to `shared`."""
    outputs: list[torch.Tensor] = []
    left: dict[str, list[torch.Tensor]] = {}
    start = 0
    for part in _batches(inputs):
        ops, rows = TorchOps(weights), slice(start, start + len(part))
        start = rows.stop
        ops.shared_values = {name: value[rows] for name, value in shared.items()}
        outputs.append(decoder.block(ops, part, layer))
        for name, value in ops.shared_values.items():
            if name not in shared:
                left.setdefault(name, []).append(value)
    shared.update({name: torch.cat(parts) for name, parts in left.items()})
    return torch.cat(outputs)


def _batches(values: torch.Tensor) -> Sequence[torch.Tensor]:
    """`[S, T, ...]` in parts of whole samples."""
    parts: Sequence[torch.Tensor] = values.split(max(1, _BATCH_TOKENS // values.shape[1]))
    return parts


def _read_block(checkpoint: Checkpoint, decoder: Decoder, layer: int) -> dict[str, FloatTensor]:
    return {name: checkpoint.read(name) for name in decoder.tensors(layer)}


def _as_samples(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Rows `[R, K]` distributed over `count` samples, `[count, ceil(R / count), K]`, padded with zeros."""
    filled = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % count))
    return filled.view(count, -1, rows.shape[1])


def _floats(tensors: Mapping[str, FloatTensor]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(tensor.float32()) for name, tensor in tensors.items()}


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None  # noqa: S101  for the type checker: backward has been called
    return leaf.grad
