"""The verb `scale_by`: a product with a tensor of the checkpoint that is no weight of a linear layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScaleBy:
    """`[B, T, K]` times the tensor `tensor` `[K]` or `[1]`, which stays in float -> `[B, T, K]`."""

    tensor: str
    name: str = "scale_by"
