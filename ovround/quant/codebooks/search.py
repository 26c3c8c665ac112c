"""Better codes for fixed codebooks: beam search on the output error, a vector at a time.

The error of a row is d H d^T, where d is the row's residual and H = X^T X. Changing one vector by c changes it by
-2 c p + c H_gg c^T, where p is the vector's part of the row's product d H. So the search needs only that product. Within a span of
columns each hypothesis updates its own copy; once the best hypothesis of the span is chosen, one matrix product updates the rest.
A sweep costs N * K^2 multiplications for any number of codebooks and hypotheses. With a span of all columns and a beam as wide as
the number of combinations, the search is exhaustive.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ovround.quant.codebooks.kmeans import LARGEST_DISTANCES, Additive

BEAM = 4  # hypotheses a row
SPAN = 64  # columns


@dataclass(slots=True)
class _Hypotheses:
    """k hypotheses for each of n rows: codes `[n, k, S, M]` of a span of S vectors, products `[n, k, columns]`, errors `[n, k]`."""

    codes: torch.Tensor
    products: torch.Tensor
    errors: torch.Tensor


@torch.no_grad()
def search_codes(
    weight: torch.Tensor, hessian: torch.Tensor, additive: Additive, beam: int = BEAM, span: int = SPAN
) -> torch.Tensor:
    """One sweep over all vectors of `weight` `[N, K]`: changes the codes in place, and returns each row's error `[N]`.

    `hessian` is H `[K, K]`. No row's error grows, since the old codes are among the candidates.
    """
    books, size = additive.codebooks, additive.codebooks.shape[2]
    groups = max(1, span // size)
    rows = max(1, LARGEST_DISTANCES // (beam * max(books.shape[1], weight.shape[1])))
    errors = []
    for start in range(0, len(weight), rows):
        part = Additive(additive.codes[start : start + rows], books, additive.scales[start : start + rows])
        residual = weight[start : start + rows] - part.value()
        product = residual @ hessian
        error = (product * residual).sum(1)
        for first in range(0, part.codes.shape[1], groups):
            where = slice(first, first + groups)
            columns = slice(first * size, min((first + groups) * size, weight.shape[1]))
            before = part.unscaled(where)
            hypotheses = _Hypotheses(
                part.codes[:, None, where].clone(), product[:, None, columns].clone(), error[:, None]
            )
            chosen, error = _search_span(hypotheses, hessian[columns, columns], part, beam)
            part.codes[:, where] = chosen
            change = (part.unscaled(where) - before).mul_(part.scales[:, None])
            product.addmm_(change, hessian[columns], alpha=-1)
        errors.append(error)
    return torch.cat(errors)


def _search_span(
    at: _Hypotheses, hessian: torch.Tensor, additive: Additive, beam: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best codes `[n, S, M]` of a span and the rows' errors with them; `hessian` is that of the span's columns."""
    size = additive.codebooks.shape[2]
    scale = additive.scales[:, None, None]
    for vector in range(at.codes.shape[2]):
        columns = slice(vector * size, (vector + 1) * size)
        for book, entries in enumerate(additive.codebooks):
            _step(at, vector, book, entries, hessian[columns, columns], hessian[columns, vector * size :], scale, beam)
    best = at.errors.argmin(1)
    rows = torch.arange(len(best), device=best.device)
    return at.codes[rows, best], at.errors[rows, best]


def _step(
    at: _Hypotheses,
    vector: int,
    book: int,
    entries: torch.Tensor,
    own: torch.Tensor,
    onward: torch.Tensor,
    scale: torch.Tensor,
    beam: int,
) -> None:
    """Extend every hypothesis by every entry of one codebook for one vector, and keep the `beam` best.

    `own` `[D, D]` is the hessian of the vector's inputs, `onward` `[D, rest]` its rows up to the span's end.
    """
    size = entries.shape[1]
    part = at.products[..., vector * size : (vector + 1) * size]
    squares = ((entries @ own) * entries).sum(1)
    codes = at.codes[:, :, vector, book]
    old = entries[codes]
    without = at.errors + 2 * scale[..., 0] * (old * part).sum(-1) + scale[..., 0].square() * squares[codes]
    aim = part + scale * (old @ own)  # the product without this entry
    scores = (aim @ entries.T).mul_(-2 * scale).add_(scale.square() * squares).add_(without[..., None]).flatten(1)
    if beam == 1:
        at.errors, chosen = scores.min(1, keepdim=True)
    else:
        at.errors, chosen = scores.topk(min(beam, scores.shape[1]), largest=False, sorted=False)
    parent, code = chosen // len(entries), chosen % len(entries)
    if at.codes.shape[1] > 1:
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        at.codes, at.products, old = at.codes[rows, parent], at.products[rows, parent], old[rows, parent]
    elif parent.shape[1] > 1:
        wide = parent.shape[1]
        at.codes, at.products = (
            values.expand(-1, wide, *values.shape[2:]).clone() for values in (at.codes, at.products)
        )
    at.codes[:, :, vector, book] = code
    change = (entries[code] - old).mul_(scale)
    at.products[..., vector * size :] -= change @ onward
