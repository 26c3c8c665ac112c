"""`selective_scan` as com.microsoft's LinearAttention: keys B, queries C, values d x, and a decay of exp(d A) a head."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ovround.exporters.onnx.ops import MICROSOFT, OnnxOps
from ovround.models.parts.selective_scan import SCAN_STATE, SelectiveScan


def compute(ops: OnnxOps, verb: SelectiveScan, inputs: Sequence[str], layer: int) -> str:
    """`[B, T, H*P + 2*G*N]` and `[B, T, H]` -> `[B, T, H*P]`. Our runtime never pads, so that every token is real."""
    at = verb.at
    sizes = ops.i64(f"sizes/{verb.joined_sizes}", list(verb.joined_sizes))
    x = ops.node("Split", [inputs[0], sizes], f"{at}/x", "", [f"{at}/B", f"{at}/C"], axis=2)
    steps = _steps(ops, verb, inputs[1])
    decay = ops.node("Neg", [ops.node("Exp", [ops.float_weight(f"{at}.A_log")], f"{at}/rate")], f"{at}/decay")
    values = ops.node("Reshape", [x, ops.i64(f"split/{verb.heads}x{verb.head_dim}", _heads(verb))], f"{at}/heads")
    column = ops.node("Unsqueeze", [steps, ops.i64("last_axis", [-1])], f"{at}/steps_column")
    joined = ops.i64(f"join/{verb.size}", [0, 0, verb.size])
    gained = ops.node("Reshape", [ops.node("Mul", [values, column], f"{at}/scaled"), joined], f"{at}/gained")
    state = f"{at}/state"
    keys, queries = (_repeated(ops, verb, f"{at}/{name}") for name in ("B", "C"))
    out = ops.node(
        "LinearAttention",
        [queries, keys, gained, ops.past(layer, SCAN_STATE), ops.node("Mul", [steps, decay], f"{at}/logs")],
        f"{at}/scan", MICROSOFT, [state], q_num_heads=verb.heads, kv_num_heads=verb.heads, scale=1.0,
        update_rule="gated",
    )  # fmt: skip
    ops.keep(layer, SCAN_STATE, state)
    skip = ops.node("Unsqueeze", [ops.float_weight(f"{at}.D"), ops.i64("last_axis", [-1])], f"{at}/D_column")
    passed = ops.node("Reshape", [ops.node("Mul", [values, skip], f"{at}/skipped"), joined], f"{at}/passed")
    return ops.node("Add", [out, passed], f"{at}/y")


def _heads(verb: SelectiveScan) -> list[int]:
    return [0, 0, verb.heads, verb.head_dim]


def _steps(ops: OnnxOps, verb: SelectiveScan, raw: str) -> str:
    """The steps d `[B, T, H]`."""
    at = verb.at
    shifted = ops.node("Add", [raw, ops.float_weight(f"{at}.dt_bias")], f"{at}/shifted")
    steps = ops.node("Softplus", [shifted], f"{at}/steps")
    if not verb.is_limited:
        return steps
    least, most = verb.limits
    bounds = [ops.f32(f"least/{least!r}", least), *([ops.f32(f"most/{most!r}", most)] if math.isfinite(most) else [])]
    return ops.node("Clip", [steps, *bounds], f"{at}/limited")


def _repeated(ops: OnnxOps, verb: SelectiveScan, x: str) -> str:
    """`[B, T, G*N]` -> `[B, T, H*N]`: the operator wants keys of every head."""
    repeats, size = verb.heads // verb.groups, verb.state_size
    if repeats == 1:
        return x
    by_group = ops.node(
        "Reshape", [x, ops.i64(f"split/{verb.groups}x1x{size}", [0, 0, verb.groups, 1, size])], f"{x}/g"
    )
    shape = ops.i64(f"repeat/{repeats}x{size}", [1, 1, 1, repeats, size])
    spread = ops.node("Expand", [by_group, shape], f"{x}/spread")
    return ops.node(
        "Reshape", [spread, ops.i64(f"join/{verb.heads * size}", [0, 0, verb.heads * size])], f"{x}/repeated"
    )
