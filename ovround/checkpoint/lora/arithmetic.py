"""The arithmetic of a LoRA adapter on one weight, in float32: Hu et al. 2021, and DoRA (Liu et al. 2024, equation 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def change(a: Floats, b: Floats, scaling: float) -> Floats:
    """What an adapter adds to a weight `[N, K]`: `scaling * b a`, of `a` `[R, K]` and `b` `[N, R]`."""
    product: Floats = (b @ a) * np.float32(scaling)
    return product


def with_magnitude(merged: Floats, base: Floats, added: Floats, magnitude: Floats) -> Floats:
    """DoRA: rows of `merged` `[N, K]` times `magnitude` `[N]` over the norm of the rows of `base + added`.

    `merged` is `base + added`, and what other adapters have changed before.
    """
    norms = np.linalg.norm(base + added, axis=1)
    scaled: Floats = merged * (magnitude.reshape(-1) / norms)[:, None]
    return scaled


def plain_scaling(alpha: float, rank: int, *, stabilised: bool) -> float:
    """The factor of a change: alpha / R, or alpha / sqrt(R) for rank-stabilised LoRA (Kalajdzievski 2023)."""
    return alpha / (rank**0.5 if stabilised else rank)


def is_turned(stored: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], *, stated: bool) -> bool | None:
    """Whether a weight lies as `[K, N]` for `a` `[R, K]` and `b` `[N, R]`; `stated` for a square one, None where neither fits."""
    if len(stored) != 2 or len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        return None
    straight = (b[0], a[1])
    if stored == straight:
        return stated if straight[0] == straight[1] else False
    return True if stored == straight[::-1] else None


def rows_replaced(base: Floats, indices: Any, rows: Floats) -> Floats:
    """`base` `[V, H]` with `rows` `[n, H]` at `indices`."""
    changed = base.copy()
    changed[np.asarray(indices, np.int64)] = rows
    return changed
