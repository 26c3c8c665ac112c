"""A compensated start made better: each level in turn is set to where the output error is least, all others standing.

Compensation looks at a column once, before those behind it are rounded. A descent goes over the columns again and again, and
between two rounds fits all scales of a row at once to the levels that it has (coordinate descent on the error of GPTQ's own
problem, as in QuantEase, arXiv 2309.01885, which leaves scales alone). What is descended is tr(E H E^T), E the weight's error.
"""

from __future__ import annotations

import torch

from ovround.config import Scheme
from ovround.quant.grid import to_float16
from ovround.quant.initial_grid import Start

ROUNDS = 4  # what more of them gain is lost again in tuning (docs/log.md)
_COLUMNS = 64  # in a block: within it products follow each change, behind it they follow the block's changes at once
_RIDGE = 1e-4  # of the mean diagonal, added to the normal equations of a row's scales
_FURTHEST = 2.0  # a scale may be fitted to so many times what it was, and to one over it
_FIT_ELEMENTS = 1 << 24  # of the products that fitting scales needs at a time: 64 MB
_SOLVING = ("cpu", "cuda")


@torch.no_grad()
def descended(weight: torch.Tensor, scheme: Scheme, start: Start, moments: torch.Tensor) -> Start:
    """`start` for `weight` `[N, K]` after ROUNDS rounds; `moments` `[K, K]` are the inputs' X^T X, damped.

    A row whose error did not fall keeps its start. Latent levels are where each level would like to be, given the others.
    """
    rows, columns = weight.shape
    groups = start.scale.shape[1]
    scale, zero = start.scale.view(rows, groups).clone(), start.zero.view(rows, groups)
    top = float((1 << scheme.bits) - 1)
    latent = start.latent.view(rows, columns)
    levels = _levels(start.latent, start.zero, top).view(rows, columns)
    before = _row_errors(weight, levels, scale, moments)
    for number in range(ROUNDS):
        if number:
            scale = _fitted(weight, levels, scale, moments)
        levels, latent = _round(weight, levels, scale, zero, top, moments)
    better = (_row_errors(weight, levels, scale, moments) < before).view(rows, 1, 1)
    return Start(
        torch.where(better, scale.unsqueeze(-1), start.scale),
        start.zero,
        torch.where(better, latent.view(start.latent.shape), start.latent),
    )


def _round(
    weight: torch.Tensor, levels: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, top: float, moments: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """One round over all columns: `levels` afterwards, whole numbers from the zero point, and what they were rounded from.

    Everything lies column by column here: a column of many weights is what each operation is about.
    """
    columns = weight.shape[1]
    width = columns // scale.shape[1]
    product = moments @ (_values(levels, scale) - weight).T
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


def _fitted(weight: torch.Tensor, levels: torch.Tensor, scale: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """The scales `[N, G]`, float16 values, with the least error for the levels as they are: a row's G equations at a time."""
    rows, groups = scale.shape
    width = weight.shape[1] // groups
    by_group = moments.view(groups, width, -1)
    found = torch.empty_like(scale)
    size = max(1, _FIT_ELEMENTS // (weight.shape[1] * groups))
    for first in range(0, rows, size):
        part = slice(first, min(first + size, rows))
        own = levels[part].view(-1, groups, width)
        products = torch.bmm(own.transpose(0, 1), by_group)  # [G, n, K]
        matrix = (products.unflatten(-1, (groups, width)) * own).sum(-1).transpose(0, 1)
        right = (products * weight[part]).sum(-1).T
        ridge = matrix.diagonal(dim1=1, dim2=2).mean(-1).clamp_min(torch.finfo(torch.float32).tiny) * _RIDGE
        matrix = matrix + ridge[:, None, None] * torch.eye(groups, device=matrix.device)
        at = matrix.device if matrix.device.type in _SOLVING else torch.device("cpu")
        solved = torch.linalg.solve(matrix.to(at), right.to(at).unsqueeze(-1)).squeeze(-1)
        found[part] = solved.to(matrix.device)
    found = to_float16(found)
    ratio = found / scale
    return torch.where((ratio > 1 / _FURTHEST) & (ratio < _FURTHEST), found, scale)


def _levels(latent: torch.Tensor, zero: torch.Tensor, top: float) -> torch.Tensor:
    return (latent.round() + zero).clamp_(0, top).sub_(zero)


def _values(levels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (levels.view(*scale.shape, -1) * scale.unsqueeze(-1)).view(levels.shape)


def _row_errors(weight: torch.Tensor, levels: torch.Tensor, scale: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    error = _values(levels, scale) - weight
    return ((error @ moments) * error).sum(1)
