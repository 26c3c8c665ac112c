"""Initial scales, zero points and levels of a weight.

    extremes      the levels span the group's lowest and highest value, and each weight takes the nearest one
    search        of several ranges, each clipped more than the one before, the one with the least squared error; each input is
                  weighted by its mean square (as llama.cpp's importance matrix and auto-round's opt-RTN do). Then the scale is
                  fitted to the chosen levels
    compensated   column after column, the columns that are not yet rounded make up for the error of a rounded weight, as far as
                  the hessian H = X^T X of the inputs allows (GPTQ, arXiv 2210.17323). Each group's range is searched when its
                  turn comes. These levels may lie further from `w / s` than rounding
    descent       as compensated, then each level and scale in turn is set to its best value (`coordinate_descent`)

Shapes as in `levels`: weights `[N, G, group]`, everything per group `[N, G, 1]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ovround.quant.integers.levels import extremes, grouped, scale_and_zero, to_float16
from ovround.tensors.scheme import QuantScheme

_CLIPPED_TO = {2: 0.3, 3: 0.45, 4: 0.65, 8: 0.9}  # of a group's extreme: the narrowest range that is tried
_CANDIDATES = 16
_REFITS = 2
_ROWS_ELEMENTS = 1 << 20  # weights searched at a time: temporaries take some megabytes
# Share of the mean of H's diagonal that is added to it (GPTQ's own value). Without it, inputs that hardly vary would cause
# unlimited compensation.
_DAMPING = 0.01
_FACTORISING = ("cpu", "cuda")
_DOUBLE_UP_TO = 4096  # inputs; a larger hessian is inverted in float32, which takes half of the memory


@dataclass(frozen=True, slots=True)
class Start:
    """Scale (a float16 value) and zero point `[N, G, 1]`, and latent levels `[N, G, group]`: `round(latent) + zero` is the code."""

    scale: torch.Tensor
    zero: torch.Tensor
    latent: torch.Tensor


@torch.no_grad()
def from_extremes(weight: torch.Tensor, scheme: QuantScheme) -> Start:
    """The scales and levels of rounding to nearest, for `weight` `[N, K]`."""
    groups = grouped(weight, scheme)
    scale, zero = scale_and_zero(*extremes(groups), scheme)
    return Start(scale, zero, groups / scale)


@torch.no_grad()
def searched(weight: torch.Tensor, scheme: QuantScheme, importance: torch.Tensor) -> Start:
    """The scales and levels with the least error over inputs of mean square `importance` `[K]`."""
    groups = grouped(weight, scheme)
    scale, zero = _search(groups, scheme, importance.view(1, -1, groups.shape[-1]))
    return Start(scale, zero, groups / scale)


@torch.no_grad()
def compensated(weight: torch.Tensor, scheme: QuantScheme, factor: torch.Tensor) -> Start:
    """Scales and levels with the error compensated from column to column; `factor` `[K, K]` is the `inverse_factor` of H."""
    rows, columns = weight.shape
    group = columns if scheme.group_size == -1 else scheme.group_size
    top = float((1 << scheme.bits) - 1)
    diagonal = factor.diagonal()
    # Stored column by column, since each operation works on one: the weights not yet rounded, with their compensation.
    current = weight.T.clone(memory_format=torch.contiguous_format)
    scales, zeros, latent = [], [], torch.empty_like(current)
    errors = torch.empty_like(current[:group])
    for first in range(0, columns, group):
        end = first + group
        part = current[first:end]
        scale, zero = _search(part.T.contiguous().unsqueeze(1), scheme, diagonal[first:end].pow(-2).view(1, 1, -1))
        scale, zero = scale.view(rows), zero.view(rows)
        lowest, highest = -zero, top - zero
        for column in range(group):
            at = first + column
            ratio = torch.div(part[column], scale, out=latent[at])
            rounded = ratio.round().clamp_(lowest, highest).mul_(scale)
            error = torch.sub(part[column], rounded, out=errors[column]).div_(diagonal[at])
            if column + 1 < group:
                part[column + 1 :].addr_(factor[at, at + 1 : end], error, alpha=-1)
        if end < columns:
            current[end:].addmm_(factor[first:end, end:].T, errors, alpha=-1)
        scales.append(scale)
        zeros.append(zero)
    return Start(
        torch.stack(scales, 1).unsqueeze(-1),
        torch.stack(zeros, 1).unsqueeze(-1),
        latent.T.reshape(rows, -1, group),
    )


@torch.no_grad()
def damped(hessian: torch.Tensor) -> torch.Tensor:
    """A copy of the hessian H `[K, K]` that can be inverted: inputs that hardly vary, or are always 0, count a little."""
    work = hessian.clone()
    diagonal = work.diagonal()
    diagonal[diagonal == 0] = 1  # an input that is always 0: any value does
    diagonal += _DAMPING * diagonal.mean()
    return work


@torch.no_grad()
def inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """Upper U `[K, K]` float32 with U^T U = (H + damping)^-1; row j says how the columns after j compensate column j."""
    # Accelerators without float64, or without matrix factorisation, leave it to the CPU.
    where = hessian.device if hessian.device.type in _FACTORISING else torch.device("cpu")
    work = damped(hessian.to(where, torch.float64 if len(hessian) <= _DOUBLE_UP_TO else torch.float32))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(work))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float().to(hessian.device)


def _search(groups: torch.Tensor, scheme: QuantScheme, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each group; `importance` is broadcast against `groups`."""
    size = max(1, _ROWS_ELEMENTS // groups[0].numel())
    parts = [_search_rows(part, scheme, importance) for part in groups.split(size)]
    return torch.cat([scale for scale, _ in parts]), torch.cat([zero for _, zero in parts])


def _search_rows(
    groups: torch.Tensor, scheme: QuantScheme, importance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = extremes(groups)
    top = float((1 << scheme.bits) - 1)
    best_scale, best_zero = scale_and_zero(low, high, scheme)

    def offsets(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        return (groups / scale).round_().add_(zero).clamp_(0, top).sub_(zero)

    def error(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        return (offsets(scale, zero).mul_(scale).sub_(groups).square_().mul_(importance)).sum(-1, keepdim=True)

    best = error(best_scale, best_zero)

    def compare(scale: torch.Tensor, zero: torch.Tensor) -> None:
        nonlocal best, best_scale, best_zero
        now = error(scale, zero)
        better = now < best
        best = torch.where(better, now, best)
        best_scale = torch.where(better, scale, best_scale)
        best_zero = torch.where(better, zero, best_zero)

    narrowest = _CLIPPED_TO[scheme.bits]
    for number in range(_CANDIDATES):
        width = 1 - (1 - narrowest) * number / (_CANDIDATES - 1)
        scale, zero = scale_and_zero(low * width, high * width, scheme)
        compare(scale, zero)
        if scheme.symmetric:  # the level without a counterpart may serve either side
            compare(-scale, zero)
    for _ in range(_REFITS):  # least squares: the scale that fits the levels best
        chosen = offsets(best_scale, best_zero)
        weighted = chosen * importance
        square = (weighted * chosen).sum(-1, keepdim=True)
        fitted = (weighted * groups).sum(-1, keepdim=True) / square.clamp_min(torch.finfo(torch.float32).tiny)
        compare(to_float16(torch.where(square > 0, fitted, best_scale)), best_zero)
    return best_scale, best_zero
