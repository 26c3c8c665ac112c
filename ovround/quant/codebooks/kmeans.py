"""Initial codebooks: residual k-means, with each weight counted by the importance of its input.

Rows are divided by their root mean square, cut into vectors, and clustered. The residual of each vector from its nearest
centroid is clustered again, once for each codebook (AQLM, arXiv 2401.06118, section 3.1). The distance is weighted by the
diagonal of the hessian H = X^T X of the inputs and by the square of the row's scale, as in VPTQ (arXiv 2409.17066). That is the
output error without the correlation of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ovround.tensors.scheme import Codebooks

LARGEST_DISTANCES = 1 << 24  # distances held at a time: 64 MB
_POINTS_PER_ENTRY = 256  # vectors that are clustered for each centroid
_ITERATIONS = 25
_SMALLEST_SCALE = 1e-6  # keeps a row of zeros finite; representable in float16


@dataclass(slots=True)
class Additive:
    """A weight `[N, K]` as codes int64 `[N, G, M]`, codebooks `[M, entries, vector]` and scales `[N]`, G = K / vector."""

    codes: torch.Tensor
    codebooks: torch.Tensor
    scales: torch.Tensor

    def unscaled(self, groups: slice = slice(None)) -> torch.Tensor:
        """The weight without its rows' scales, `[N, K]`, or the columns of some `groups`."""
        codes = self.codes[:, groups]
        vectors = self.codebooks[0][codes[..., 0]]
        for book in range(1, len(self.codebooks)):
            vectors += self.codebooks[book][codes[..., book]]
        return vectors.flatten(1)

    def value(self) -> torch.Tensor:
        """The weight `[N, K]`."""
        return self.unscaled().mul_(self.scales[:, None])


@torch.no_grad()
def residual_kmeans(
    weight: torch.Tensor, importance: torch.Tensor, layout: Codebooks, generator: torch.Generator
) -> Additive:
    """Codebooks and codes for `weight` `[N, K]` over inputs of mean square `importance` `[K]`."""
    scales = weight.square().mean(1).sqrt_().clamp_(min=_SMALLEST_SCALE)
    size = layout.vector_size
    residue = (weight / scales[:, None]).view(-1, size)
    counts = (scales.square()[:, None] * importance).view(-1, size)
    counts = counts / counts.mean().clamp_min(torch.finfo(torch.float32).tiny)
    codes, books = [], []
    for _ in range(layout.count):
        centroids, nearest = weighted_kmeans(residue, counts, 1 << layout.bits, generator)
        residue = residue - centroids[nearest]
        codes.append(nearest.view(weight.shape[0], -1))
        books.append(centroids)
    return Additive(torch.stack(codes, -1), torch.stack(books), scales)


@torch.no_grad()
def weighted_kmeans(
    points: torch.Tensor, counts: torch.Tensor, entries: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd's algorithm for sum of counts * (point - centroid)^2; centroids `[entries, D]` and the nearest to each point `[P]`.

    `points` and `counts` are `[P, D]`: each coordinate of each point has a weight of its own.
    """
    drawn = torch.randperm(len(points), generator=generator).to(points.device)
    chosen = drawn[: _POINTS_PER_ENTRY * entries]
    sample, weighted = points[chosen], counts[chosen]
    centroids = sample[:entries].clone()
    if len(centroids) < entries:  # fewer points than entries: all of them, and the rest is never used
        centroids = torch.cat([centroids, centroids.new_zeros(entries - len(centroids), points.shape[1])])
    products = sample * weighted
    for _ in range(_ITERATIONS):
        nearest, distance = _nearest(sample, weighted, centroids)
        total = torch.zeros_like(centroids).index_add_(0, nearest, weighted)
        mass = torch.zeros_like(centroids).index_add_(0, nearest, products)
        moved = torch.where(total > 0, mass / total.clamp_min(torch.finfo(torch.float32).tiny), centroids)
        empty = (torch.bincount(nearest, minlength=entries) == 0).nonzero().flatten()[: len(sample)]
        moved[empty] = sample[
            distance.topk(len(empty)).indices
        ]  # an entry that nothing chose takes a badly served point
        done = not len(empty) and torch.equal(moved, centroids)
        centroids = moved
        if done:
            break
    return centroids, _nearest(points, counts, centroids)[0]


def _nearest(points: torch.Tensor, counts: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest centroid of each point `[P]`, and its weighted distance."""
    squares = centroids.square().T
    nearest, distances = [], []
    rows = max(1, LARGEST_DISTANCES // len(centroids))
    for start in range(0, len(points), rows):
        point, count = points[start : start + rows], counts[start : start + rows]
        weighted = point * count
        score = torch.addmm(weighted @ centroids.T, count, squares, beta=-2)
        lowest, index = score.min(1)
        nearest.append(index)
        distances.append(lowest + (weighted * point).sum(1))
    return torch.cat(nearest), torch.cat(distances)
