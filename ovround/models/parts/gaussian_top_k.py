"""The verb `gaussian_top_k`: a gate that keeps about a share of its features, as if they were normally distributed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class GaussianTopK:
    """x `[B, T, K]` -> max(x - mean - deviation * quantile, 0), mean and deviation those of a token's features.

    `sparsity` is the share that becomes 0.
    """

    sparsity: float
    name: str = "gaussian_top_k"

    @property
    def quantile(self) -> float:
        """Of the standard normal distribution at `sparsity`."""
        return NormalDist().inv_cdf(self.sparsity)
