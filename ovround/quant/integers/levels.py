"""Scales, zero points and levels as in SignRound: from a group's extremes to qparams, and from values to levels.

Formulas as in the SignRound paper (arXiv 2309.05516) with the full-range symmetric scheme of its reference implementation:

    symmetric   s = m / 2^(b-1), m the larger of -min and max, negative when it is max;    q = round(w / s)
                the larger extreme lies on level -2^(b-1), so no level is unused
    asymmetric  s = (max - min) / (2^b - 1), z = round(-min / s);                          q = round(w / s) + z

Scales are rounded to float16, as they are stored, before any level is chosen. Shapes: weights `[N, G, group]`, everything
per group `[N, G, 1]`. Levels are unsigned here (`u = q + 2^(b-1)` when symmetric), as in `QTensor`.
"""

from __future__ import annotations

import torch

from ovround.errors import TensorError
from ovround.tensors.scheme import QuantScheme

SMALLEST_SCALE = 1e-5  # keeps w / s finite for a group of zeros; a float16 subnormal


def grouped(weight: torch.Tensor, scheme: QuantScheme) -> torch.Tensor:
    """`[N, K]` as `[N, G, group]`."""
    size = weight.shape[1] if scheme.group_size == -1 else scheme.group_size
    return weight.reshape(weight.shape[0], -1, size)


def extremes(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest (at most 0) and highest (at least 0) value of each group, `[N, G, 1]`."""
    low, high = torch.aminmax(groups, dim=-1, keepdim=True)
    return low.clamp(max=0), high.clamp(min=0)


def scale_and_zero(low: torch.Tensor, high: torch.Tensor, scheme: QuantScheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of groups that span `low` .. `high`, float32 `[N, G, 1]`; differentiable through both roundings."""
    if scheme.symmetric:
        half = float(1 << (scheme.bits - 1))
        scale = torch.where(-low > high, -low, -high) / half
        return to_float16(scale), torch.full_like(scale, half)
    scale = to_float16((high - low) / ((1 << scheme.bits) - 1))
    top = float((1 << scheme.bits) - 1)
    return scale, round_through(-low / scale).clamp(0, top)


def to_float16(scale: torch.Tensor) -> torch.Tensor:
    """Scales as they are stored: float16, never nearer to zero than SMALLEST_SCALE; the gradient passes unchanged."""
    floor = torch.where(scale < 0, -SMALLEST_SCALE, SMALLEST_SCALE)
    kept = torch.where(scale.detach().abs() < SMALLEST_SCALE, floor, scale.detach()).half().float()
    return scale + (kept - scale).detach()


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
    """Raise TensorError when a scale is outside of float16's range."""
    if not bool(torch.isfinite(scale).all()):
        raise TensorError(
            f"`{name}` has values so large that a float16 scale overflows",
            hint=f"--layer '{name}=bits:16' leaves it in float",
        )
