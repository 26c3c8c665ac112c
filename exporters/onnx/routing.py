"""The choice of experts by scores, groups and a bias as ONNX nodes; see `ovround.models.ops.Routing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from ovround.models.ops import Experts, Routing

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps

_FLOAT = int(onnx.TensorProto.FLOAT)
_LOWEST = float(np.finfo(np.float32).min)


def routed(ops: OnnxOps, logits: str, spec: Experts, routing: Routing, at: str) -> tuple[str, str]:
    """Weights and numbers of each row's experts, float32 and int64 `[rows, top_k]`, for router logits `[rows, E]`."""
    inside = f"{at}.experts"
    if routing.scores == "softmax":
        scores = ops.node("Softmax", [logits], f"{inside}/scores", axis=-1)
    else:
        scores = ops.node("Sigmoid", [logits], f"{inside}/scores")
    choice = scores
    if routing.biased:
        bias = ops.float_weight(f"{at}.gate.e_score_correction_bias")
        choice = ops.node("Add", [scores, bias], f"{inside}/biased")
    if routing.top_groups < routing.groups:
        choice = _among_groups(ops, choice, spec, routing, inside)
    chosen = f"{inside}/chosen"
    ops.node("TopK", [choice, ops.i64(f"count/{spec.top_k}", [spec.top_k])], f"{inside}/top", "", [chosen], axis=-1)
    weights = ops.node("GatherElements", [scores, chosen], f"{inside}/weights", axis=1)
    if spec.weights == "share":
        total = ops.node("ReduceSum", [weights, ops.i64("axis1", [1])], f"{inside}/sum", keepdims=1)
        if routing.least_sum:
            least = ops.f32(f"least/{routing.least_sum!r}", routing.least_sum)
            total = ops.node("Max", [total, least], f"{inside}/least_sum")
        weights = ops.node("Div", [weights, total], f"{inside}/share")
    return (weights if routing.factor == 1 else ops.scale(weights, routing.factor)), chosen


def _among_groups(ops: OnnxOps, choice: str, spec: Experts, routing: Routing, inside: str) -> str:
    """`choice` `[rows, E]` with the lowest number where a group is not among the best."""
    each = [-1, routing.groups, spec.count // routing.groups]
    groups = ops.node("Reshape", [choice, ops.i64(f"groups/{each}", each)], f"{inside}/groups")
    last = ops.i64("axis2", [2])
    if routing.group_score == "highest":
        best = ops.node("ReduceMax", [groups, last], f"{inside}/best", keepdims=0)
    else:
        two = f"{inside}/two"
        ops.node("TopK", [groups, ops.i64("count/2", [2])], two, "", [f"{two}/places"], axis=-1)
        best = ops.node("ReduceSum", [two, last], f"{inside}/best", keepdims=0)
    count, numbers = ops.i64(f"count/{routing.top_groups}", [routing.top_groups]), f"{inside}/best_groups"
    ops.node("TopK", [best, count], f"{inside}/best_scores", "", [numbers], axis=-1)
    column = ops.node("Unsqueeze", [numbers, last], f"{inside}/best_column")
    every = ops.i64(f"experts/{routing.groups}", list(range(routing.groups)))
    among = ops.node(
        "Cast", [ops.node("Equal", [column, every], f"{inside}/is_best")], f"{inside}/is_best_f32", to=_FLOAT
    )
    among = ops.node("ReduceMax", [among, ops.i64("axis1", [1])], f"{inside}/among", keepdims=0)
    among = ops.node("Greater", [among, ops.f32("zero", 0.0)], f"{inside}/among_best")
    among = ops.node("Unsqueeze", [among, last], f"{inside}/among_groups")
    masked = ops.node("Where", [among, groups, ops.f32("lowest", _LOWEST)], f"{inside}/masked")
    return ops.node("Reshape", [masked, ops.i64(f"rows/{spec.count}", [-1, spec.count])], f"{inside}/choice")
