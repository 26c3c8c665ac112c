"""One weight under tuning, in two parametrisations with one interface.

`SignRoundWeight` is SignRound's own (arXiv 2309.05516): V per weight, and two factors in [0, 1] per group on the group's lowest
and highest value, from which scale and zero point follow.

`LearnedScaleWeight` tunes levels, scale and zero point separately: `value = (clamp(round(u) + z, 0, 2^b - 1) - z) * s`. The latent
level u starts at `w / s`, as rounding does, but is not tied to it. So a weight may move by more than one level, and a change of the
scale moves no level. Block-wise training in EfficientQAT (arXiv 2407.11062) has the same freedom.

Every parameter is in levels, or a factor near 1, so one rate serves all weights of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.quant.integers.initial_grid import Start
from ovround.quant.integers.levels import (
    check_scales,
    extremes,
    grouped,
    levels,
    round_through,
    scale_and_zero,
    to_float16,
)
from ovround.quant.passes.optimizer import OPTIMIZERS, Optimizer
from ovround.quant.tensor_pool import TensorPool
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

OFFSET_STEPS = 256  # a latent level is kept to 1/256: 127 of them are just below the next rounding
# How far a latent level may travel, as a share of what SignRound's V may (half a level). At more bits, a compensated start
# leaves less to gain, and a level that wanders loses more. With Adam few levels go so far.
LATENT_RATE = {"adam": {2: 2.0, 3: 1.0, 4: 1.0, 8: 1.0}, "sign": {2: 1.0, 3: 0.5, 4: 0.4, 8: 0.4}}
# How far a scale moves the outermost level, and a zero point all levels, while latent levels move by 1.
SCALE_RATE = 0.4
ZERO_RATE = 0.2
_SMALLEST_FACTOR, _LARGEST_FACTOR = 0.25, 4.0
_PART = 1 << 16  # 256 KB of float32; the time is the same from a half to the double of it


class TunedWeight(Protocol):
    """A weight `[N, K]` as the tuner sees it."""

    name: str
    bits: float
    """Bits of levels or codes, without scales and codebooks."""

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        """The leaf tensors that gradients are taken of."""
        ...

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        """The parameters and everything else that changes: all that a snapshot needs."""
        ...

    def fake_quantized(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight `[N, K]` that the engine will see, rounded to `dtype`, differentiable with respect to `parameters`."""
        ...

    def step(self, rate: float) -> None:
        """Move every parameter down its gradient, a level by about `rate`, and drop the gradients."""
        ...

    def result(self) -> QTensor | CodebookTensor | FloatTensor:
        """The weight as it is stored; its de-quantised value is `fake_quantized`, to the last bit."""
        ...

    def offsets(self) -> NDArray[np.int8] | None:
        """How far each latent level lies from the level that was chosen, `[N, K]` in OFFSET_STEPS parts of a level.

        None for what has no levels.
        """
        ...


class _FollowingFakeQuantize(torch.autograd.Function):
    """`(levels - zero) * scale`, with straight-through gradients written out: one pass over the weights each way."""

    @staticmethod
    def forward(
        ctx: Any, groups: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int
    ) -> torch.Tensor:
        ratio = groups / scale
        level = (ratio + shift).round_().add_(zero)
        inside = (level >= 0) & (level <= (1 << bits) - 1)
        offset = level.clamp_(0, (1 << bits) - 1).sub_(zero)
        ctx.save_for_backward(ratio, offset, inside, scale)
        return offset * scale

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        ratio, offset, inside, scale = ctx.saved_tensors
        grad_shift = grad * scale * inside
        # d/ds of s * (round(w/s + v)) is offset - w/s where unclamped, offset where clamped
        grad_scale = (grad * (offset - ratio * inside)).sum(-1, keepdim=True)
        # a clamped level does not move with the zero point, so the value falls by s; an unclamped one moves along
        grad_zero = -(grad * scale * ~inside).sum(-1, keepdim=True)
        return None, grad_shift, grad_scale, grad_zero, None


class _FreeFakeQuantize(torch.autograd.Function):
    """`(clamp(round(u) + z) - z) * s` in `dtype`, with straight-through gradients written out.

    It works on some rows at a time, few enough to stay in a processor's cache from one operation to the next. A large layer
    takes a third of the time so. Values that the gradient needs are computed again instead of being kept.
    """

    @staticmethod
    def forward(
        ctx: Any, latent: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, dtype: torch.dtype
    ) -> torch.Tensor:
        ctx.save_for_backward(latent, scale, zero)
        ctx.bits = bits
        value = torch.empty_like(latent, dtype=dtype)
        for rows in _parts(latent):
            level = latent[rows].round().add_(zero[rows]).clamp_(0, (1 << bits) - 1)
            value[rows].copy_(level.sub_(zero[rows]).mul_(scale[rows]))
        return value

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        latent, scale, zero = ctx.saved_tensors
        grad_latent, grad_scale = torch.empty_like(latent), torch.empty_like(scale)
        grad_zero = torch.empty_like(zero) if ctx.needs_input_grad[2] else None
        for rows in _parts(latent):
            grad, level = grads[0][rows].to(latent.dtype), latent[rows].round().add_(zero[rows])
            offset = level.clamp(0, (1 << ctx.bits) - 1)
            inside = level == offset
            torch.sum(offset.sub_(zero[rows]).mul_(grad), -1, keepdim=True, out=grad_scale[rows])
            grad_level = grad * scale[rows]
            moved = torch.mul(grad_level, inside, out=grad_latent[rows])
            if grad_zero is not None:  # only a clamped level moves against the zero point
                grad_zero[rows] = moved.sum(-1, keepdim=True) - grad_level.sum(-1, keepdim=True)
        return grad_latent, grad_scale, grad_zero, None, None


def _parts(groups: torch.Tensor) -> list[slice]:
    """Rows of `[N, G, group]`, about `_PART` elements for each thread at a time.

    All of them on a device without such a cache, or where a compiler fuses the operations anyway.
    """
    if groups.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(0, len(groups))]
    count = max(1, _PART * torch.get_num_threads() // groups[0].numel())
    return [slice(first, first + count) for first in range(0, len(groups), count)]


_following_fake_quantize: Callable[..., torch.Tensor] = _FollowingFakeQuantize.apply  # torch leaves `apply` untyped
_free_fake_quantize: Callable[..., torch.Tensor] = _FreeFakeQuantize.apply


class SignRoundWeight:
    """SignRound's parameters: V `[N, G, group]` and the two clipping factors `[N, G, 1]`."""

    def __init__(self, name: str, weight: torch.Tensor, scheme: QuantScheme, optimizer: str = "sign") -> None:
        self.name, self.scheme, self.shape, self.bits = name, scheme, weight.shape, float(scheme.bits)
        self.groups = grouped(weight, scheme)
        self.low, self.high = extremes(self.groups)
        self.shift = torch.zeros_like(self.groups, requires_grad=True)
        self.low_factor = torch.ones_like(self.low, requires_grad=True)
        self.high_factor = torch.ones_like(self.high, requires_grad=True)
        self._optimizer = OPTIMIZERS[optimizer](self.parameters, (1.0, 1.0, 1.0))

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        return self.shift, self.low_factor, self.high_factor

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        return self.parameters

    def qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return scale_and_zero(self.low * self.low_factor, self.high * self.high_factor, self.scheme)

    def fake_quantized(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        value = _following_fake_quantize(self.groups, self.shift, *self.qparams(), self.scheme.bits)
        return value.view(self.shape).to(dtype)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """The factors move by `rate` too, and stay within [0, 1]."""
        self._optimizer.step(rate)
        self.low_factor.clamp_(0, 1)
        self.high_factor.clamp_(0, 1)

    @torch.no_grad()
    def offsets(self) -> NDArray[np.int8]:
        scale, zero = self.qparams()
        return _offsets(self.groups / scale + self.shift, zero, self.scheme).reshape(self.shape)

    @torch.no_grad()
    def result(self) -> QTensor:
        scale, zero = self.qparams()
        codes = levels(self.groups, scale, zero, self.scheme.bits, self.shift)
        return _result(self.name, self.scheme, self.shape, codes, scale, zero)


class LearnedScaleWeight:
    """Latent levels u `[N, G, group]`, and per group `[N, G, 1]` a factor on the scale and a shift of the zero point."""

    def __init__(
        self, name: str, start: Start, shape: torch.Size, scheme: QuantScheme, optimizer: str = "adam"
    ) -> None:
        self.name, self.scheme, self.shape, self.bits = name, scheme, shape, float(scheme.bits)
        self.scale, self.zero = start.scale, start.zero
        self.reach = float(1 << (scheme.bits - 1))  # levels between the middle one and the outermost
        self.latent = start.latent.requires_grad_()
        self.factor = torch.ones_like(self.scale, requires_grad=True)
        self.zero_shift = torch.zeros_like(self.scale, requires_grad=not scheme.symmetric)
        self._kind = optimizer
        self._optimizer: Optimizer | None = None

    @classmethod
    def resumed(
        cls,
        name: str,
        quantized: QTensor,
        offsets: NDArray[np.int8] | None,
        scheme: QuantScheme,
        device: torch.device | str = "cpu",
    ) -> LearnedScaleWeight:
        """From a finished weight and its `offsets`, to continue where they were taken; None: from the levels themselves."""
        scale = torch.from_numpy(quantized.scales).to(device).float().unsqueeze(-1)
        half = float(1 << (scheme.bits - 1))
        zero = torch.full_like(scale, half)
        if quantized.zero_points is not None:
            zero = torch.from_numpy(quantized.zero_points).to(device).float().unsqueeze(-1)
        latent = torch.from_numpy(quantized.codes).to(device).float()
        if offsets is not None:
            latent += torch.from_numpy(offsets).to(device).float().div_(OFFSET_STEPS)
        return cls(name, Start(scale, zero, grouped(latent, scheme) - zero), latent.shape, scheme)

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        return (self.latent, self.factor) if self.scheme.symmetric else (self.latent, self.factor, self.zero_shift)

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        return self.parameters

    def qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale = to_float16(self.scale * self.factor)
        if self.scheme.symmetric:
            return scale, self.zero
        return scale, round_through(self.zero + self.zero_shift).clamp(0, (1 << self.scheme.bits) - 1)

    def fake_quantized(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return _free_fake_quantize(self.latent, *self.qparams(), self.scheme.bits, dtype).view(self.shape)

    def begin_steps(self, pool: TensorPool | None = None) -> None:
        """Make the optimizer of `step`, whose state may lie in `pool`; other passes have one of their own."""
        sizes = (1.0, SCALE_RATE / self.reach, ZERO_RATE)[: len(self.parameters)]
        self._optimizer = OPTIMIZERS[self._kind](self.parameters, sizes, pool)

    def step(self, rate: float) -> None:
        """Levels move by LATENT_RATE of `rate`, scale and zero point by SCALE_RATE and ZERO_RATE of that."""
        if self._optimizer is None:
            self.begin_steps()
        assert self._optimizer is not None  # noqa: S101  what mypy does not see
        self._optimizer.step(rate * LATENT_RATE[self._kind][self.scheme.bits])
        self.bound()

    @torch.no_grad()
    def bound(self) -> None:
        """Keep the scale between a quarter and four times its start."""
        self.factor.clamp_(_SMALLEST_FACTOR, _LARGEST_FACTOR)

    @torch.no_grad()
    def offsets(self) -> NDArray[np.int8]:
        return _offsets(self.latent, self.qparams()[1], self.scheme).reshape(self.shape)

    @torch.no_grad()
    def result(self) -> QTensor:
        scale, zero = self.qparams()
        codes = self.latent.round().add_(zero).clamp_(0, (1 << self.scheme.bits) - 1)
        return _result(self.name, self.scheme, self.shape, codes, scale, zero)


def gradients(weights: Sequence[TunedWeight]) -> list[torch.Tensor]:
    """All gradients of the weights' parameters, always in the same order."""
    return [parameter.grad for weight in weights for parameter in weight.parameters if parameter.grad is not None]


def forget(weights: Sequence[TunedWeight]) -> None:
    """Drop all gradients."""
    for weight in weights:
        for parameter in weight.parameters:
            parameter.grad = None


def _offsets(latent: torch.Tensor, zero: torch.Tensor, scheme: QuantScheme) -> NDArray[np.int8]:
    """Distances of latent levels from the chosen ones; one beyond the outermost level, or beyond rounding, is kept at the edge."""
    chosen = latent.round().add_(zero).clamp_(0, (1 << scheme.bits) - 1).sub_(zero)
    steps: NDArray[np.int8] = (
        (latent - chosen).mul_(OFFSET_STEPS).round_().clamp_(-127, 127).to(torch.int8).cpu().numpy()
    )
    return steps


def _result(
    name: str, scheme: QuantScheme, shape: torch.Size, codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> QTensor:
    check_scales(name, scale)
    zeros: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    if not scheme.symmetric:
        zeros = zero.squeeze(-1).to(torch.uint8).cpu().numpy()
    stored = codes.to(torch.uint8).reshape(shape).cpu().numpy()
    return QTensor(stored, scale.squeeze(-1).half().cpu().numpy(), zeros, scheme.bits)
