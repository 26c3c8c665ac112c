"""Which experts a token takes, and how it weighs them, as OpenVINO nodes; see `ovround.models.ops.Experts`."""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.constants import ConstantFile
from ovround.models.ops import ClampedGate, Experts

_LOWEST = -3.4028234663852886e38  # of float32: what no softmax sees


def chosen_experts(file: ConstantFile, logits: ov.Node, spec: Experts) -> tuple[ov.Node, ov.Node]:
    """Weights and numbers of each row's experts, f32 and i64 `[rows, top_k]`, for router logits `[rows, E]`."""
    if spec.weights == "sparsemixer":
        return _sparsemixer(file, logits, spec)
    top = opset.topk(opset.softmax(logits, -1), _count(file, spec.top_k), -1, "max", "value", "i64")
    weights, chosen = top.output(0), top.output(1)
    if spec.weights == "share":
        total = opset.reduce_sum(weights, file.small("const/last_axis", "i64", [-1]), True)
        weights = opset.divide(weights, total).output(0)
    return weights, chosen


def clamped_gate(file: ConstantFile, both: ov.Node, spec: ClampedGate) -> ov.Node:
    """What down projections get, `[E, rows, I]`, for `both` `[E, rows, 2 I]`, whose features are gate and up in turn."""

    def every_second(start: int) -> ov.Node:
        first, last, step = (file.small(f"const/feature/{one}", "i64", [one]) for one in (start, 2**31 - 1, 2))
        return opset.slice(both, first, last, step, file.small("const/axes2", "i64", [2]))

    def number(value: float) -> ov.Node:
        return file.small(f"const/f32/gate/{value!r}", "f32", value)

    up = opset.add(opset.clamp(every_second(1), -spec.limit, spec.limit), number(1.0))
    gate = opset.swish(opset.minimum(every_second(0), number(spec.limit)), number(spec.alpha))
    return opset.multiply(up, gate)


def _sparsemixer(file: ConstantFile, logits: ov.Node, spec: Experts) -> tuple[ov.Node, ov.Node]:
    axis, lowest = file.small("const/axis1", "i64", 1), file.small("const/f32/lowest", "f32", _LOWEST)
    tolerance = file.small(f"const/f32/tolerance/{spec.tolerance!r}", "f32", spec.tolerance)
    left, size, weights, chosen = logits, opset.absolute(logits), [], []
    for _ in range(spec.top_k):
        top = opset.topk(left, _count(file, 1), -1, "max", "value", "i64")
        highest, expert = top.output(0), top.output(1)
        distance = opset.divide(opset.subtract(highest, logits), opset.maximum(size, highest))
        near = opset.select(opset.greater(distance, tolerance), lowest, left)
        weights.append(opset.gather_elements(opset.softmax(near, -1), expert, 1))
        chosen.append(expert)
        masked = opset.broadcast(lowest, opset.shape_of(expert, "i64"))
        left = opset.scatter_elements_update(left, expert, masked, axis)
    return opset.concat(weights, 1), opset.concat(chosen, 1)


def _count(file: ConstantFile, count: int) -> ov.Node:
    return file.small(f"const/count/{count}", "i64", count)
