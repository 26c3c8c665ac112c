"""A mixture of experts as OpenVINO nodes: choice, products, weighted sum; see `ovround.models.ops.Experts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as opset
from openvino.utils.node_factory import NodeFactory

from ovround.exporters.openvino.constants import ConstantFile
from ovround.exporters.openvino.nodes import named
from ovround.exporters.openvino.routing import routed_by
from ovround.models.ops import ClampedGate, Experts

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps

_LOWEST = -3.4028234663852886e38  # of float32: what no softmax sees


def experts(ops: OpenVINOOps, x: ov.Node, at: str, spec: Experts, routed: ov.Node) -> ov.Node:
    """Every expert on every token, weighed by 0 where it was not chosen; the router reads `routed`.

    It is only written so: of this shape, ConvertTiledMoeBlockTo3GatherMatmuls (transformations/common_optimizations)
    makes products with the chosen experts alone, which read compressed weights; of a clamped gate,
    ConvertTiledMoeBlockTo2GatherMatmuls does.
    """
    size = x.output(0).get_partial_shape()[2].get_length()
    rows = opset.reshape(x, ops.i64(f"rows/{size}", [-1, size]), False)
    asked = rows
    if routed is not x:
        width = routed.output(0).get_partial_shape()[2].get_length()
        asked = opset.reshape(routed, ops.i64(f"rows/{width}", [-1, width]), False)
    logits = ops.linear(asked, f"{at}.gate")
    weights, chosen = (
        _chosen(ops.file, logits, spec) if spec.routing is None else routed_by(ops, logits, spec, spec.routing, at)
    )
    if spec.scaled:
        scales = opset.gather(ops.weight(f"{at}.gate.scale"), chosen, ops.i64("axis0", 0))
        weights = opset.multiply(weights, scales)
    tiled = opset.tile(rows, ops.i64(f"times/{spec.count}", [spec.count, 1]))
    tiled = opset.reshape(tiled, ops.i64(f"each/{spec.count}x{size}", [spec.count, -1, size]), False)

    def product(y: ov.Node, name: str) -> ov.Node:
        weight, bias = (f"{at}.experts.*.{name}.{kind}" for kind in ("weight", "bias"))
        product_node = named(opset.matmul(y, ops.weight(weight), False, True), f"{at}.experts.{name}")
        if bias not in ops.file.entries:
            return product_node
        return opset.add(product_node, opset.unsqueeze(ops.weight(bias), ops.i64("axis1", 1)))

    if not spec.gated:
        gated = ops.activation(product(tiled, "up_proj"), spec.activation)
    elif spec.clamped is not None:
        gated = _clamped_gate(ops.file, product(tiled, "gate_up_proj"), spec.clamped)
    elif spec.activation == "silu":
        gate = NodeFactory("opset13").create("Swish", [product(tiled, "gate_proj")], {})
        gated = opset.multiply(gate, product(tiled, "up_proj"))
    else:
        gate = ops.activation(product(tiled, "gate_proj"), spec.activation)
        gated = opset.multiply(gate, product(tiled, "up_proj"))
    out = product(gated, "down_proj")
    places = opset.concat([ops.batch, ops.i64("rest", [-1])], 0)
    count = ops.i64(f"experts/{spec.count}", [spec.count])
    width = ops.i64(f"size/{size}", [size])
    out = opset.reshape(out, opset.concat([count, places, width], 0), False)
    none = opset.broadcast(ops.f32("zero", 0.0), opset.shape_of(logits, "i64"))
    shares = opset.scatter_elements_update(none, chosen, weights, ops.i64("axis1", 1))
    shares = opset.transpose(shares, ops.i64("order10", [1, 0]))
    shares = opset.unsqueeze(opset.reshape(shares, opset.concat([count, places], 0), False), ops.i64("axis3", [3]))
    return named(opset.reduce_sum(opset.multiply(out, shares), ops.i64("axes0", [0]), False), f"{at}.experts")


def _chosen(file: ConstantFile, logits: ov.Node, spec: Experts) -> tuple[ov.Node, ov.Node]:
    """Weights and numbers of each row's experts, f32 and i64 `[rows, top_k]`, for router logits `[rows, E]`."""
    if spec.weights == "sparsemixer":
        return _sparsemixer(file, logits, spec)
    top = opset.topk(opset.softmax(logits, -1), _count(file, spec.top_k), -1, "max", "value", "i64")
    weights, chosen = top.output(0), top.output(1)
    if spec.weights == "share":
        total = opset.reduce_sum(weights, file.small("const/last_axis", "i64", [-1]), True)
        weights = opset.divide(weights, total).output(0)
    return weights, chosen


def _clamped_gate(file: ConstantFile, both: ov.Node, spec: ClampedGate) -> ov.Node:
    """What down projections get, `[E, rows, I]`, for `both` `[E, rows, 2 I]`, whose features are gate and up in turn."""

    def every_second(start: int) -> ov.Node:
        first, last, step = (file.small(f"const/feature/{value}", "i64", [value]) for value in (start, 2**31 - 1, 2))
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
