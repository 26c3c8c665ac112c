"""Which samples each tuning step sees."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def batches(count: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Row numbers of `steps` batches: all of `count` rows in a random order, again and again, without a short batch."""
    order, position = torch.randperm(count, generator=generator), 0
    for _ in range(steps):
        if position + batch_size > count and position:
            order, position = torch.randperm(count, generator=generator), 0
        yield order[position : position + batch_size]
        position += batch_size
