"""`HeadNorm` as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovround.exporters.onnx.ops import OnnxOps
from ovround.models.parts.norms import HeadNorm


def compute(ops: OnnxOps, verb: HeadNorm, inputs: Sequence[str], layer: int) -> str:
    """`[B, T, heads * size]` -> the same."""
    x, heads, size = inputs[0], verb.heads, verb.size
    at = f"{x}/head_norm"
    if heads > 1:
        x = ops.node("Reshape", [x, ops.i64(f"split/{heads}x{size}", [0, 0, heads, size])], f"{at}/heads")
    kind = "LayerNormalization" if verb.kind == "layer" else "SimplifiedLayerNormalization"
    ones = ops.f32(f"ones/{size}", np.ones(size, np.float32))
    normal = ops.node(kind, [x, ones], at, axis=-1, epsilon=verb.eps, stash_type=1)
    if heads > 1:
        normal = ops.node("Reshape", [normal, ops.i64(f"join/{heads * size}", [0, 0, heads * size])], f"{at}/joined")
    if not verb.at:
        return normal
    flat = ops.i64(f"flat/{heads * size}", [heads * size])
    weight = ops.node("Reshape", [ops.float_weight(f"{verb.at}.weight"), flat], f"{verb.at}/flat")
    return ops.node("Mul", [normal, weight], verb.at)
