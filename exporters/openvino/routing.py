"""The choice of experts by scores, groups and a bias as OpenVINO nodes; see `ovround.models.ops.Routing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as opset

from ovround.models.ops import Experts, Routing

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps

_LOWEST = -3.4028234663852886e38


def routed(ops: OpenVINOOps, logits: ov.Node, spec: Experts, routing: Routing, at: str) -> tuple[ov.Node, ov.Node]:
    """Weights and numbers of each row's experts, f32 and i64 `[rows, top_k]`, for router logits `[rows, E]`."""
    scores = opset.softmax(logits, -1) if routing.scores == "softmax" else opset.sigmoid(logits)
    choice = scores
    if routing.biased:
        choice = opset.add(scores, ops.weight(f"{at}.gate.e_score_correction_bias"))
    if routing.top_groups < routing.groups:
        choice = _among_groups(ops, choice, spec, routing)
    chosen = opset.topk(choice, ops.i64(f"count/{spec.top_k}", spec.top_k), -1, "max", "value", "i64").output(1)
    weights = opset.gather_elements(scores, chosen, 1)
    if spec.weights == "share":
        total = opset.reduce_sum(weights, ops.i64("last_axis", [-1]), True)
        if routing.least_sum:
            total = opset.maximum(total, ops.f32(f"least/{routing.least_sum!r}", routing.least_sum))
        weights = opset.divide(weights, total)
    return (weights if routing.factor == 1 else ops.scale(weights, routing.factor)), chosen


def _among_groups(ops: OpenVINOOps, choice: ov.Node, spec: Experts, routing: Routing) -> ov.Node:
    """`choice` `[rows, E]` with the lowest number where a group is not among the best."""
    each = [-1, routing.groups, spec.count // routing.groups]
    groups, last = opset.reshape(choice, ops.i64(f"groups/{each}", each), False), ops.i64("axes2", [2])
    if routing.group_score == "highest":
        best = opset.reduce_max(groups, last, False)
    else:
        two = opset.topk(groups, ops.i64("count/2", 2), -1, "max", "value", "i64")
        best = opset.reduce_sum(two.output(0), last, False)
    count = ops.i64(f"count/{routing.top_groups}", routing.top_groups)
    numbers = opset.topk(best, count, -1, "max", "value", "i64").output(1)
    every = ops.i64(f"numbers/{routing.groups}", list(range(routing.groups)))
    is_best = opset.equal(opset.unsqueeze(numbers, last), every)
    among = opset.unsqueeze(opset.reduce_logical_or(is_best, ops.i64("axes1", [1]), False), last)
    masked = opset.select(among, groups, ops.f32("lowest", _LOWEST))
    return opset.reshape(masked, ops.i64(f"rows/{spec.count}", [-1, spec.count]), False)
