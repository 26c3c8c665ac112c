"""A compensated start made better: each level in turn is set to where the output error is least, all others standing.

Compensation looks at a column once, before those behind it are rounded. A descent goes over the columns again and again, and
between two rounds fits all scales of a row at once to the levels that it has (coordinate descent on the error of GPTQ's own
problem, as in QuantEase, arXiv 2309.01885, which leaves scales alone). What is descended is tr(E H E^T), E the weight's error.
"""

from __future__ import annotations

import torch

from ovround.options.convert_options import QuantScheme
from ovround.quant.integers.initial_grid import Start
from ovround.quant.integers.levels import to_float16

ROUNDS = 4  # what more of them gain is lost again in tuning (docs/log.md)
_COLUMNS = 64  # in a block: within it products follow each change, behind it they follow the block's changes at once
_RIDGE = 1e-4  # of the mean diagonal, added to the normal equations of a row's scales
_FURTHEST = 2.0  # a scale may be fitted to so many times what it was, and to one over it
_FIT_ELEMENTS = 1 << 20  # of the products that fitting scales needs at a time: 4 MB
_SOLVING = ("cpu", "cuda")


@torch.no_grad()
def descended(weight: torch.Tensor, scheme: QuantScheme, start: Start, moments: torch.Tensor) -> Start:
    """`start` for `weight` `[N, K]` after ROUNDS rounds; `moments` `[K, K]` are the inputs' X^T X, damped.

    A row whose error did not fall keeps its start. Latent levels are where each level would like to be, given the others.
    """
    rows, columns = weight.shape
    groups = start.scale.shape[1]
    scale, zero = start.scale.view(rows, groups).clone(), start.zero.view(rows, groups)
    top = float((1 << scheme.bits) - 1)
    latent = start.latent.view(rows, columns)
    levels = _levels(start.latent, start.zero, top).view(rows, columns)
    before, wanted = torch.zeros(rows, device=weight.device), weight @ moments
    for number in range(ROUNDS):
        if number:
            scale = _fitted(levels, scale, moments, wanted)
        error = _values(levels, scale) - weight
        product = moments @ error.T
        if not number:
            before = (product.T * error).sum(1)
        levels, latent = _round(product, levels, scale, zero, top, moments)
    error = _values(levels, scale) - weight
    better = (((error @ moments) * error).sum(1) < before).view(rows, 1, 1)
    return Start(
        torch.where(better, scale.unsqueeze(-1), start.scale),
        start.zero,
        torch.where(better, latent.view(start.latent.shape), start.latent),
    )


def _round(
    product: torch.Tensor, levels: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, top: float, moments: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """One round over all columns: `levels` afterwards, whole numbers from the zero point, and what they were rounded from.

    `product` `[K, N]`, H E^T, is used up. Everything lies column by column here: a column of many weights is what each
    operation is about.
    """
    columns = levels.shape[1]
    width = columns // scale.shape[1]
    now, latent = levels.T.clone(memory_format=torch.contiguous_format), torch.empty_like(product)
    scales, lowest, highest = (one.T.contiguous() for one in (scale, -zero, top - zero))
    own = moments.diagonal().cpu().tolist()
    changes = torch.empty_like(product[:_COLUMNS])
    for first in range(0, columns, _COLUMNS):
        end = min(first + _COLUMNS, columns)
        here, near = product[first:end], moments[first:end, first:end]
        for column in range(first, end):
            group, at = column // width, column - first
            aim = torch.addcdiv(now[column], here[at], scales[group], value=-1 / own[column], out=latent[column])
            level = aim.round().clamp_(lowest[group], highest[group])
            change = torch.sub(level, now[column], out=changes[at]).mul_(scales[group])
            now[column] = level
            here[at + 1 :].addr_(near[at, at + 1 :], change)
        if end < columns:
            product[end:].addmm_(moments[end:, first:end], changes[: end - first])
    return now.T.contiguous(), latent.T.contiguous()


def _fitted(levels: torch.Tensor, scale: torch.Tensor, moments: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The scales `[N, G]`, float16 values, with the least error for the levels as they are; `wanted` `[N, K]` is W H.

    Each row has G equations, a group's levels by H by another's; those of a pair are the same for either of the two.
    """
    rows, groups = scale.shape
    columns = levels.shape[1]
    width = columns // groups
    found = torch.empty_like(scale)
    size = max(1, _FIT_ELEMENTS // columns)
    for first in range(0, rows, size):
        part = slice(first, min(first + size, rows))
        own = levels[part]
        upper = own.new_zeros(len(own), groups, groups)
        for group in range(groups):
            at = group * width
            products = (own[:, at : at + width] @ moments[at : at + width, at:]).mul_(own[:, at:])
            upper[:, group, group:] = products.unflatten(-1, (-1, width)).sum(-1)
        diagonal = upper.diagonal(dim1=1, dim2=2)
        matrix = upper + upper.triu(1).mT
        matrix.diagonal(dim1=1, dim2=2).add_(
            diagonal.mean(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny), alpha=_RIDGE
        )
        right = (wanted[part] * own).unflatten(-1, (groups, width)).sum(-1)
        where = matrix.device if matrix.device.type in _SOLVING else torch.device("cpu")
        solved = torch.linalg.solve(matrix.to(where), right.to(where).unsqueeze(-1)).squeeze(-1)
        found[part] = solved.to(matrix.device)
    found = to_float16(found)
    ratio = found / scale
    return torch.where((ratio > 1 / _FURTHEST) & (ratio < _FURTHEST), found, scale)


def _levels(latent: torch.Tensor, zero: torch.Tensor, top: float) -> torch.Tensor:
    return (latent.round() + zero).clamp_(0, top).sub_(zero)


def _values(levels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (levels.view(*scale.shape, -1) * scale.unsqueeze(-1)).view(levels.shape)
