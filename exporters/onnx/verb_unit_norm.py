"""`UnitNorm` as an ONNX node: a norm whose weight is ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ovround.models.parts.unit_norm import UnitNorm

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps


def compute(ops: OnnxOps, verb: UnitNorm, inputs: Sequence[str], layer: int) -> str:
    (x,), size = inputs, verb.size // verb.heads
    if verb.heads > 1:
        x = ops.node("Reshape", [x, ops.i64(f"split/{verb.heads}x{size}", [0, 0, verb.heads, size])], f"{x}/unit_heads")
    ones = ops.f32(f"ones/{size}", np.ones(size, np.float32))
    normal = ops.node(
        "SimplifiedLayerNormalization", [x, ones], f"{x}/unit_norm", axis=-1, epsilon=verb.eps, stash_type=1
    )
    if verb.heads == 1:
        return normal
    return ops.node("Reshape", [normal, ops.i64(f"join/{verb.size}", [0, 0, verb.size])], f"{x}/unit_norm_joined")
