"""`gated_delta_rule` as com.microsoft's LinearAttention, which ONNX Runtime has from 1.26 on.

Its gates are plain operators: LinearAttentionGate, which computes both in one, is in newer versions only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovround.exporters.onnx.ops import MICROSOFT, OnnxOps
from ovround.models.parts.gated_delta_net import NORM_EPS, RECURRENT, GatedDeltaRule


def compute(ops: OnnxOps, verb: GatedDeltaRule, inputs: Sequence[str], layer: int) -> str:
    """query, key and value side by side, a and b -> `[B, T, H_v * D_v]`. LinearAttention divides queries by sqrt(D_k) itself."""
    mixed, a, b = inputs
    at = f"{verb.at}.delta"
    parts, sizes = [f"{at}/{name}" for name in ("query", "key", "value")], list(verb.widths)
    ops.node("Split", [mixed, ops.i64(f"widths/{sizes}", sizes)], parts[0], "", parts[1:], axis=-1)
    query, key = (_unit(ops, part, verb) for part in parts[:2])
    rate = ops.node("Neg", [ops.node("Exp", [ops.float_weight(f"{verb.at}.A_log")], f"{at}/rate")], f"{at}/minus_rate")
    biased = ops.node("Add", [a, ops.float_weight(f"{verb.at}.dt_bias")], f"{at}/biased")
    decay = ops.node("Mul", [ops.node("Softplus", [biased], f"{at}/softplus"), rate], f"{at}/decay")
    share, state = ops.node("Sigmoid", [b], f"{at}/share"), f"{at}/state"
    ops.node(
        "LinearAttention", [query, key, parts[2], ops.past(layer, RECURRENT), decay, share], at, MICROSOFT, [state],
        q_num_heads=verb.key_heads, kv_num_heads=verb.value_heads, update_rule="gated_delta",
    )  # fmt: skip
    ops.keep(layer, RECURRENT, state)
    return at


def _unit(ops: OnnxOps, x: str, verb: GatedDeltaRule) -> str:
    """Each head of `[B, T, H_k * D_k]` over its length: the RMS norm, whose mean is the sum of squares over D_k."""
    size, heads = verb.key_size, verb.key_heads
    split = ops.node("Reshape", [x, ops.i64(f"split/{heads}x{size}", [0, 0, heads, size])], f"{x}/heads")
    gain = ops.f32(f"unit/{size}", np.full(size, size**-0.5, np.float32))
    unit = ops.node(
        "SimplifiedLayerNormalization", [split, gain], f"{x}/unit", axis=-1, epsilon=NORM_EPS / size, stash_type=1
    )
    return ops.node("Reshape", [unit, ops.i64(f"join/{heads * size}", [0, 0, heads * size])], f"{x}/joined")
