"""Scales, zero points and levels as in SignRound: from a group's extremes to qparams, and from values to levels.

Formulas as in the SignRound paper (arXiv 2309.05516) with the full-range symmetric scheme of its reference implementation:

    symmetric   s = m / 2^(b-1), m the larger of -min and max, negative when it is max;    q = round(w / s)
                the larger extreme lies on level -2^(b-1), so no level is unused
    asymmetric  s = (max - min) / (2^b - 1), z = round(-min / s);                          q = round(w / s) + z

Scales are rounded to float16, as they are stored, before any level is chosen: to nearest where float16 has its full precision,
away from 0 below that, so that the extremes of a group of tiny weights keep their levels. Shapes: weights `[N, G, group]`, everything
per group `[N, G, 1]`. Levels are unsigned here (`u = q + 2^(b-1)` when symmetric), as in `QTensor`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ovround.errors import TensorError
from ovround.tensors.qtensor import SMALLEST_SCALE
from ovround.tensors.scheme import QuantScheme

SMALLEST_NORMAL = 2.0**-14  # of float16; the numbers below are whole multiples of SMALLEST_SCALE
SMALLEST_WIDE_SCALE = 1e-37  # in float32: keeps w / s finite for a group of zeros
Store = Callable[[torch.Tensor], torch.Tensor]


def grouped(weight: torch.Tensor, scheme: QuantScheme) -> torch.Tensor:
    """`[N, K]` as `[N, G, group]`."""
    size = weight.shape[1] if scheme.group_size == -1 else scheme.group_size
    return weight.reshape(weight.shape[0], -1, size)


def extremes(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest (at most 0) and highest (at least 0) value of each group, `[N, G, 1]`."""
    low, high = torch.aminmax(groups, dim=-1, keepdim=True)
    return low.clamp(max=0), high.clamp(min=0)


def scale_and_zero(
    low: torch.Tensor, high: torch.Tensor, scheme: QuantScheme, store: Store | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of groups that span `low` .. `high`, float32 `[N, G, 1]`; differentiable through both roundings.

    `store` rounds a scale as it is stored: `to_float16` if None.
    """
    store = store or to_float16
    if scheme.symmetric:
        half = float(1 << (scheme.bits - 1))
        scale = torch.where(-low > high, -low, -high) / half
        return store(scale), torch.full_like(scale, half)
    scale = store((high - low) / ((1 << scheme.bits) - 1))
    top = float((1 << scheme.bits) - 1)
    return scale, round_through(-low / scale).clamp(0, top)


def to_float16(scale: torch.Tensor) -> torch.Tensor:
    """Scales as they are stored: float16, never nearer to zero than SMALLEST_SCALE; the gradient passes unchanged."""
    stated = scale.detach()
    steps = (stated.abs() / SMALLEST_SCALE).ceil_().clamp_(min=1).mul_(SMALLEST_SCALE)
    tiny = torch.where(stated < 0, -steps, steps)
    kept = torch.where(stated.abs() < SMALLEST_NORMAL, tiny, stated.half().float())
    return scale + (kept - scale).detach()


def to_float32(scale: torch.Tensor) -> torch.Tensor:
    """Scales as they are stored where float16 cannot hold them."""
    floor = torch.where(scale < 0, -SMALLEST_WIDE_SCALE, SMALLEST_WIDE_SCALE)
    return torch.where(scale.abs() < SMALLEST_WIDE_SCALE, floor, scale)


def round_through(x: torch.Tensor) -> torch.Tensor:
    """Round to nearest; the gradient passes unchanged (straight-through estimator)."""
    return x + (x.round() - x).detach()


def levels(
    groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, shift: torch.Tensor | None = None
) -> torch.Tensor:
    """Unsigned levels `[N, G, group]`: `clamp(round(w / s + shift) + z, 0, 2^b - 1)`; `shift` is SignRound's V."""
    ratio = groups / scale
    if shift is not None:
        ratio = ratio + shift
    return ratio.round_().add_(zero).clamp_(0, (1 << bits) - 1)


def check_scales(name: str, scale: torch.Tensor) -> None:
    """Raise TensorError when a scale is outside of the range of the type that it was rounded to."""
    if not bool(torch.isfinite(scale).all()):
        raise TensorError(
            f"`{name}` has values so large that a float16 scale overflows",
            hint=f"--layer '{name.removesuffix('.weight')}=bits:16' leaves it in float",
        )
