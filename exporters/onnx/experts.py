"""A mixture of experts as ONNX nodes; see `ovround.models.ops.Experts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from ovround.exporters.onnx.routing import routed_by
from ovround.models.ops import Experts

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps

_INT64 = int(onnx.TensorProto.INT64)
_LOWEST = float(np.finfo(np.float32).min)  # what no softmax sees


def experts(ops: OnnxOps, x: str, at: str, spec: Experts, routed: str) -> str:
    """Tokens sorted by expert, each expert on its own ones, a token's sum taken where they are back in order.

    The router reads `routed`.

    QMoE would be one node, but rounds activations of 2 and 8 bits to int8 at every accuracy level, takes one kind of gate,
    and is slower in prompts: by 19 % for 128 experts of 2048 x 768, where a token takes 11 % less. A layer's nodes are six an
    expert, those of an expert without tokens on empty tensors.
    """
    count, top_k, inside = spec.count, spec.top_k, f"{at}.experts"
    size = ops.file.entries[f"{inside}.0.down_proj.weight"].shape[0]
    rows = ops.node("Reshape", [x, ops.i64(f"rows/{size}", [-1, size])], f"{inside}/rows")
    asked = rows
    if routed != x:
        width = ops.file.entries[f"{at}.gate.weight"].shape[1]
        asked = ops.node("Reshape", [routed, ops.i64(f"rows/{width}", [-1, width])], f"{inside}/asked")
    logits = ops.linear(asked, f"{at}.gate")
    weights, chosen = _chosen(ops, logits, spec, at)
    if spec.scaled:
        scales = ops.node("Gather", [ops.float_weight(f"{at}.gate.scale"), chosen], f"{inside}/scales")
        weights = ops.mul(weights, scales)
    flat = ops.node("Reshape", [chosen, ops.i64("flat", [-1])], f"{inside}/flat")
    one_hot = ops.node(
        "Equal",
        [
            ops.node("Unsqueeze", [flat, ops.i64("axis1", [1])], f"{inside}/column"),
            ops.i64(f"experts/{count}", list(range(count))),
        ],
        f"{inside}/one_hot",
    )
    one_hot = ops.node("Cast", [one_hot], f"{inside}/one_hot_i64", to=_INT64)
    sizes = ops.node("ReduceSum", [one_hot, ops.i64("axis0", [0])], f"{inside}/sizes", keepdims=0)
    order = f"{inside}/order"
    total = ops.node("Shape", [flat], f"{inside}/total")
    ops.node("TopK", [flat, total], f"{inside}/sorted", "", [order], axis=0, largest=0)
    places = ops.node("Div", [order, ops.i64(f"top_k/{top_k}", top_k)], f"{inside}/places")
    sorted_rows = ops.node("Gather", [rows, places], f"{inside}/sorted_rows", axis=0)
    parts = [f"{inside}.{expert}/tokens" for expert in range(count)]
    ops.node("Split", [sorted_rows, sizes], parts[0], "", parts[1:], axis=0)
    outputs = []
    for expert, part in enumerate(parts):
        gated = _gated(ops, part, f"{inside}.{expert}", spec)
        outputs.append(ops.linear(gated, f"{inside}.{expert}.down_proj"))
    every = ops.node("Concat", outputs, f"{inside}/every", axis=0)
    column = ops.node("Unsqueeze", [order, ops.i64("axis1", [1])], f"{inside}/order_column")
    back = ops.node("ScatterND", [every, column, every], f"{inside}/in_order")
    back = ops.node("Reshape", [back, ops.i64(f"chosen/{top_k}x{size}", [-1, top_k, size])], f"{inside}/by_token")
    shares = ops.node("Unsqueeze", [weights, ops.i64("axis2", [2])], f"{inside}/shares")
    back = ops.node("Mul", [back, shares], f"{inside}/weighed")
    mixed = ops.node("ReduceSum", [back, ops.i64("axis1", [1])], f"{inside}/mixed", keepdims=0)
    return ops.node("Reshape", [mixed, ops.node("Shape", [x], f"{inside}/shape")], inside)


def _gated(ops: OnnxOps, x: str, at: str, spec: Experts) -> str:
    """What an expert's down projection gets, `[rows, intermediate_size]`."""
    if not spec.gated:
        return ops.activation(ops.linear(x, f"{at}.up_proj"), spec.activation)
    if spec.clamped is None:
        gate = ops.activation(ops.linear(x, f"{at}.gate_proj"), spec.activation)
        return ops.mul(gate, ops.linear(x, f"{at}.up_proj"))
    both, limit = ops.linear(x, f"{at}.gate_up_proj"), spec.clamped.limit
    gate, up = (_every_second(ops, both, start) for start in (0, 1))
    high, low = ops.f32(f"limit/{limit!r}", limit), ops.f32(f"limit/{-limit!r}", -limit)
    gate, up = ops.node("Clip", [gate, "", high], f"{at}/gate"), ops.node("Clip", [up, low, high], f"{at}/up")
    share = ops.node("Sigmoid", [ops.scale(gate, spec.clamped.alpha)], f"{at}/share")
    up = ops.node("Add", [up, ops.f32("one", 1.0)], f"{at}/up_plus_one")
    return ops.mul(ops.mul(gate, share), up)


def _every_second(ops: OnnxOps, x: str, start: int) -> str:
    """Features `start`, `start + 2`, ... of `[rows, features]`."""
    ends = [ops.i64(f"feature/{start}", [start]), ops.i64("feature/end", [2**31 - 1])]
    return ops.node("Slice", [x, *ends, ops.i64("axis1", [1]), ops.i64("two1", [2])], f"{x}/from{start}")


def _chosen(ops: OnnxOps, logits: str, spec: Experts, at: str) -> tuple[str, str]:
    """Weights and numbers of each row's experts, float32 and int64 `[rows, top_k]`, for router logits `[rows, E]`."""
    inside = f"{at}.experts"
    weights, chosen = f"{inside}/weights", f"{inside}/chosen"
    if spec.routing is not None:
        return routed_by(ops, logits, spec, spec.routing, at)
    if spec.weights == "sparsemixer":
        return _sparsemixer(ops, logits, spec, inside)
    probability = ops.node("Softmax", [logits], f"{inside}/probability", axis=-1)
    ops.node("TopK", [probability, ops.i64(f"count/{spec.top_k}", [spec.top_k])], weights, "", [chosen], axis=-1)
    if spec.weights == "share":
        total = ops.node("ReduceSum", [weights, ops.i64("axis1", [1])], f"{inside}/sum", keepdims=1)
        weights = ops.node("Div", [weights, total], f"{inside}/share")
    return weights, chosen


def _sparsemixer(ops: OnnxOps, logits: str, spec: Experts, inside: str) -> tuple[str, str]:
    size = ops.node("Abs", [logits], f"{inside}/size")
    left, weights, chosen = logits, [], []
    for turn in range(spec.top_k):
        at = f"{inside}/turn{turn}"
        highest, expert = f"{at}/highest", f"{at}/expert"
        ops.node("TopK", [left, ops.i64("count/1", [1])], highest, "", [expert], axis=-1)
        away = ops.node("Sub", [highest, logits], f"{at}/away")
        distance = ops.node("Div", [away, ops.node("Max", [size, highest], f"{at}/larger")], f"{at}/distance")
        far = ops.node("Greater", [distance, ops.f32(f"tolerance/{spec.tolerance!r}", spec.tolerance)], f"{at}/far")
        near = ops.node("Where", [far, ops.f32("lowest", _LOWEST), left], f"{at}/near")
        share = ops.node("Softmax", [near], f"{at}/softmax", axis=-1)
        weights.append(ops.node("GatherElements", [share, expert], f"{at}/weight", axis=1))
        chosen.append(expert)
        masked = ops.node("Mul", [ops.node("Abs", [highest], f"{at}/abs"), ops.f32("zero", 0.0)], f"{at}/none")
        masked = ops.node("Add", [masked, ops.f32("lowest", _LOWEST)], f"{at}/masked")
        left = ops.node("ScatterElements", [left, expert, masked], f"{at}/left", axis=1)
    return (
        ops.node("Concat", weights, f"{inside}/weights", axis=1),
        ops.node("Concat", chosen, f"{inside}/chosen", axis=1),
    )
