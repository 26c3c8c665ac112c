"""`grouped_norm` as ONNX nodes: ONNX Runtime's norm with weights of 1 over each group, then the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovround.exporters.onnx.ops import OnnxOps
from ovround.models.parts.grouped_norm import GroupedNorm


def compute(ops: OnnxOps, verb: GroupedNorm, inputs: Sequence[str], layer: int) -> str:
    """`[B, T, size]` -> the same."""
    at, groups, width = verb.at, verb.groups, verb.size // verb.groups
    parts = ops.node("Reshape", [inputs[0], ops.i64(f"split/{groups}x{width}", [0, 0, groups, width])], f"{at}/groups")
    ones = ops.f32(f"ones/{width}", np.ones(width, np.float32))
    normal = ops.node(
        "SimplifiedLayerNormalization", [parts, ones], f"{at}/normal", axis=-1, epsilon=verb.eps, stash_type=1
    )
    joined = ops.node("Reshape", [normal, ops.i64(f"join/{verb.size}", [0, 0, verb.size])], f"{at}/joined")
    return ops.node("Mul", [joined, ops.float_weight(f"{at}.weight")], at)
