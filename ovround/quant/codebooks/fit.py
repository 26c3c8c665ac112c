"""Codebooks for one weight: codes by beam search, codebooks and scales by least squares, in turns.

Minimises tr((W - W') H (W - W')^T), H = X^T X of the inputs that the quantised blocks give (AQLM, arXiv 2401.06118). For fixed
codes that is quadratic in the codebooks' entries: conjugate gradients take the place of the paper's Adam, and reach in ten steps
what Adam needs hundreds for (docs/log.md). For fixed codes and entries a row's best scale is one division.
"""

from __future__ import annotations

import torch

from ovround.options.convert_options import Codebooks
from ovround.quant.codebooks.kmeans import Additive, residual_kmeans
from ovround.quant.codebooks.search import search_codes

ROUNDS = 10
ENOUGH = 0.01  # a round that wins less than this share of the error is the last
CONJUGATE_STEPS = 10
DAMPING = 0.01  # of the mean of H's diagonal, added to it


@torch.no_grad()
def fit_codebooks(
    weight: torch.Tensor, moments: torch.Tensor | None, layout: Codebooks, generator: torch.Generator
) -> Additive:
    """Codes, codebooks and scales for `weight` `[N, K]`; `moments` is X^T X `[K, K]`, None where no token was seen."""
    identity = torch.eye(weight.shape[1], device=weight.device)
    if moments is None or not bool(moments.diagonal().any()):
        moments = identity
    moments = moments / moments.diagonal().mean() + DAMPING * identity
    additive = residual_kmeans(weight, moments.diagonal(), layout, generator)
    before = float("inf")
    for _ in range(ROUNDS):
        fit_entries(weight, moments, additive)
        fit_scales(weight, moments, additive)
        error = float(search_codes(weight, moments, additive).double().sum())
        if error > before * (1 - ENOUGH):
            break
        before = error
    fit_entries(weight, moments, additive)
    fit_scales(weight, moments, additive)
    return additive


@torch.no_grad()
def output_error(weight: torch.Tensor, moments: torch.Tensor, additive: Additive) -> torch.Tensor:
    """Each row's error `[N]`: d H d^T with d = W - W'."""
    residual = weight - additive.value()
    return ((residual @ moments) * residual).sum(1)


@torch.no_grad()
def fit_entries(weight: torch.Tensor, moments: torch.Tensor, additive: Additive, steps: int = CONJUGATE_STEPS) -> None:
    """Conjugate gradients on the codebooks, codes and scales fixed; preconditioned by how often an entry is used, and how hard."""
    books = additive.codebooks
    used = additive.scales.square()[:, None] * moments.diagonal()
    weights = _gathered(additive, used).clamp_min_(torch.finfo(torch.float32).tiny)
    residual = weight - additive.value()
    gradient = _gathered(additive, (residual @ moments).mul_(additive.scales[:, None]))
    scaled = gradient / weights
    direction, product = scaled.clone(), float((gradient * scaled).double().sum())
    first = product
    for _ in range(steps):
        if product <= first * 1e-6 or product == 0:
            break
        change = Additive(additive.codes, direction, additive.scales).value()
        curved = change @ moments
        curvature = float((curved * change).double().sum())
        if curvature <= 0:
            break
        length = product / curvature
        books.add_(direction, alpha=length)
        gradient.sub_(_gathered(additive, curved.mul_(additive.scales[:, None])), alpha=length)
        scaled = gradient / weights
        now = float((gradient * scaled).double().sum())
        direction.mul_(now / product).add_(scaled)
        product = now


@torch.no_grad()
def fit_scales(weight: torch.Tensor, moments: torch.Tensor, additive: Additive) -> None:
    """The scale of each row that leaves the least error; a row that nothing fits keeps its own."""
    unscaled = additive.unscaled()
    product = unscaled @ moments
    square = (product * unscaled).sum(1)
    best = (product * weight).sum(1) / square.clamp_min(torch.finfo(torch.float32).tiny)
    additive.scales = torch.where((square > 0) & (best != 0), best, additive.scales)


def _gathered(additive: Additive, values: torch.Tensor) -> torch.Tensor:
    """`values` `[N, K]` summed by the entry that each vector is coded by, `[M, entries, vector]`: the codes' transpose."""
    books = additive.codebooks
    vectors = values.reshape(-1, books.shape[2])
    gathered = torch.zeros_like(books)
    for book in range(len(books)):
        gathered[book].index_add_(0, additive.codes[..., book].reshape(-1), vectors)
    return gathered
