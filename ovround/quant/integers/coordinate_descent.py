"""Coordinate descent after compensation: each level in turn is set to where the output error is least, all others fixed.

Compensation rounds a column once, before the columns after it are rounded. A descent goes over the columns several times.
Between two rounds it fits all scales of a row at once to the row's levels. It minimises tr(E H E^T), the objective of GPTQ, where
E is the weight's error and H the hessian. QuantEase (arXiv 2309.01885) does the same without fitting scales.
"""

from __future__ import annotations

import torch

from ovround.quant.integers.initial_grid import Start
from ovround.quant.integers.levels import to_float16
from ovround.tensors.scheme import QuantScheme

ROUNDS = 4  # the gain of more rounds is lost again in tuning
_COLUMNS = 64  # in a block; products are updated after each change within it, and once for all columns after it
_RIDGE = 1e-4  # of the mean diagonal, added to the normal equations of a row's scales
_FURTHEST = 2.0  # a fitted scale may be this many times the old one, or the inverse
_FIT_ELEMENTS = 1 << 20  # elements of products in memory while scales are fitted: 4 MB
_SOLVING = ("cpu", "cuda")


@torch.no_grad()
def descended(weight: torch.Tensor, scheme: QuantScheme, start: Start, hessian: torch.Tensor) -> Start:
    """`start` for `weight` `[N, K]` after ROUNDS rounds; `hessian` `[K, K]` is the inputs' X^T X, damped.

    A row whose error did not fall keeps its start. A latent level is the best real value of a level, given all others.
    """
    rows, columns = weight.shape
    groups = start.scale.shape[1]
    scale, zero = start.scale.view(rows, groups).clone(), start.zero.view(rows, groups)
    top = float((1 << scheme.bits) - 1)
    latent = start.latent.view(rows, columns)
    levels = _levels(start.latent, start.zero, top).view(rows, columns)
    before, weighted = torch.zeros(rows, device=weight.device), weight @ hessian
    for number in range(ROUNDS):
        if number:
            scale = _fitted(levels, scale, hessian, weighted)
        error = _values(levels, scale) - weight
        product = hessian @ error.T
        if not number:
            before = (product.T * error).sum(1)
        levels, latent = _round(product, levels, scale, zero, top, hessian)
    error = _values(levels, scale) - weight
    better = (((error @ hessian) * error).sum(1) < before).view(rows, 1, 1)
    return Start(
        torch.where(better, scale.unsqueeze(-1), start.scale),
        start.zero,
        torch.where(better, latent.view(start.latent.shape), start.latent),
    )


def _round(
    product: torch.Tensor, levels: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, top: float, hessian: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """One round over all columns: the new `levels`, whole numbers from the zero point, and the values they were rounded from.

    `product` `[K, N]` is H E^T, and is overwritten. Everything is stored column by column here, since each operation works on
    one column of many weights.
    """
    columns = levels.shape[1]
    width = columns // scale.shape[1]
    now, latent = levels.T.clone(memory_format=torch.contiguous_format), torch.empty_like(product)
    scales, lowest, highest = (values.T.contiguous() for values in (scale, -zero, top - zero))
    own = hessian.diagonal().cpu().tolist()
    changes = torch.empty_like(product[:_COLUMNS])
    for first in range(0, columns, _COLUMNS):
        end = min(first + _COLUMNS, columns)
        here, near = product[first:end], hessian[first:end, first:end]
        for column in range(first, end):
            group, at = column // width, column - first
            aim = torch.addcdiv(now[column], here[at], scales[group], value=-1 / own[column], out=latent[column])
            level = aim.round().clamp_(lowest[group], highest[group])
            change = torch.sub(level, now[column], out=changes[at]).mul_(scales[group])
            now[column] = level
            here[at + 1 :].addr_(near[at, at + 1 :], change)
        if end < columns:
            product[end:].addmm_(hessian[end:, first:end], changes[: end - first])
    return now.T.contiguous(), latent.T.contiguous()


def _fitted(levels: torch.Tensor, scale: torch.Tensor, hessian: torch.Tensor, weighted: torch.Tensor) -> torch.Tensor:
    """The scales `[N, G]`, float16 values, with the least error for the given levels; `weighted` `[N, K]` is W H.

    Each row has G equations; their matrix, the levels of one group times H times those of another, is symmetric.
    """
    rows, groups = scale.shape
    columns = levels.shape[1]
    width = columns // groups
    fitted = torch.empty_like(scale)
    size = max(1, _FIT_ELEMENTS // columns)
    for first in range(0, rows, size):
        part = slice(first, min(first + size, rows))
        own = levels[part]
        upper = own.new_zeros(len(own), groups, groups)
        for group in range(groups):
            at = group * width
            products = (own[:, at : at + width] @ hessian[at : at + width, at:]).mul_(own[:, at:])
            upper[:, group, group:] = products.unflatten(-1, (-1, width)).sum(-1)
        diagonal = upper.diagonal(dim1=1, dim2=2)
        matrix = upper + upper.triu(1).mT
        matrix.diagonal(dim1=1, dim2=2).add_(
            diagonal.mean(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny), alpha=_RIDGE
        )
        right = (weighted[part] * own).unflatten(-1, (groups, width)).sum(-1)
        where = matrix.device if matrix.device.type in _SOLVING else torch.device("cpu")
        solved = torch.linalg.solve(matrix.to(where), right.to(where).unsqueeze(-1)).squeeze(-1)
        fitted[part] = solved.to(matrix.device)
    fitted = to_float16(fitted)
    ratio = fitted / scale
    return torch.where((ratio > 1 / _FURTHEST) & (ratio < _FURTHEST), fitted, scale)


def _levels(latent: torch.Tensor, zero: torch.Tensor, top: float) -> torch.Tensor:
    return (latent.round() + zero).clamp_(0, top).sub_(zero)


def _values(levels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (levels.view(*scale.shape, -1) * scale.unsqueeze(-1)).view(levels.shape)
