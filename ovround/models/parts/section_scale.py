"""A factor for each section of a token's features."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SectionScale:
    """The verb: `[B, T, K]` whose features are sections of `sizes`, one after the other, each times its factor."""

    sizes: tuple[int, ...]
    factors: tuple[float, ...]
    name: str = "section_scale"

    def values(self) -> list[float]:
        """The factor of each feature, `[K]`."""
        return [factor for size, factor in zip(self.sizes, self.factors, strict=True) for _ in range(size)]
