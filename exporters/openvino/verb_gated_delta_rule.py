"""`gated_delta_rule` as the loop over tokens that OpenVINO recognises (GatedDeltaNetFusion) and computes by one operator.

What is matched: the body node by node, its inputs in this order, lengths of queries and keys as a division by a root, the
division of queries by the root of their size as it follows from their shape, and, so that heads need not be repeated, that
queries, keys and values come from one split. openvino_genai's continuous batching turns the operator into
PagedGatedDeltaNet. Where it is not recognised, the loop runs as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.nodes import named
from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.models.parts.gated_delta_net import NORM_EPS, RECURRENT, GatedDeltaRule


def compute(ops: OpenVINOOps, verb: GatedDeltaRule, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """query, key and value side by side, a and b -> `[B, T, H_v * D_v]`; padding is zero in all three of the first."""
    mixed, a, b = inputs
    widths = ops.i64(f"widths/{list(verb.widths)}", list(verb.widths))
    query, key, value = opset.variadic_split(mixed, ops.i64("axis2", 2), widths).outputs()
    query, key = (_by_head(ops, _unit(ops, _repeated(ops, part, verb))) for part in (query, key))
    heads = ops.i64(f"split/{verb.value_heads}x{verb.value_size}", [0, 0, verb.value_heads, verb.value_size])
    value = _by_head(ops, opset.reshape(value, heads, True))
    root = opset.power(opset.convert(_size(ops, query, 3), "f32"), ops.f32("half", 0.5))
    rate = opset.negative(opset.exp(ops.weight(f"{verb.at}.A_log")))
    decay = opset.multiply(opset.softplus(opset.add(a, ops.weight(f"{verb.at}.dt_bias"))), rate)
    order = ops.i64("order021", [0, 2, 1])
    steps = [opset.divide(query, root), key, value, opset.transpose(decay, order)]
    steps.append(opset.transpose(opset.sigmoid(b), order))
    out, state = _loop(ops, verb, steps, ops.past(layer, RECURRENT))
    shape = [0, verb.value_heads, verb.key_size, verb.value_size]  # its own: an Assign takes a node, no second output
    ops.keep(layer, RECURRENT, opset.reshape(state, ops.i64(f"state/{shape}", shape), True))
    joined = ops.i64(f"joined/{verb.widths[2]}", [0, 0, verb.widths[2]])
    return named(opset.reshape(_by_head(ops, out), joined, True), f"{verb.at}.delta")


def _repeated(ops: OpenVINOOps, x: ov.Output, verb: GatedDeltaRule) -> ov.Node:
    """`[B, T, H_k * D_k]` -> `[B, T, H_v, D_k]`, each key head beside itself."""
    heads, size, repeats = verb.key_heads, verb.key_size, verb.value_heads // verb.key_heads
    split = opset.reshape(x, ops.i64(f"split/{heads}x{size}", [0, 0, heads, size]), True)
    if repeats == 1:
        return split
    wide = opset.unsqueeze(split, ops.i64("axis3_0", 3))
    copies = ops.i64(f"copies/{repeats}", [1, 1, 1, repeats, 1])
    wide = opset.broadcast(wide, copies, broadcast_spec="BIDIRECTIONAL")
    shape = ops.i64(f"split/{heads * repeats}x{size}", [0, 0, heads * repeats, size])
    return opset.reshape(wide, shape, True)


def _unit(ops: OpenVINOOps, x: ov.Node) -> ov.Node:
    """Each head of `[B, T, H, D]` over its length."""
    squares = opset.reduce_sum(opset.multiply(x, x), ops.i64("last_axis", [-1]), True)
    length = opset.sqrt(opset.add(squares, ops.f32("delta/eps", NORM_EPS)))
    return opset.multiply(x, opset.divide(ops.f32("one", 1.0), length))


def _by_head(ops: OpenVINOOps, x: ov.Node | ov.Output) -> ov.Node:
    """`[B, T, H, D]` -> `[B, H, T, D]`, and back."""
    return opset.transpose(x, ops.i64("heads_order", [0, 2, 1, 3]))


def _size(ops: OpenVINOOps, x: ov.Node, axis: int) -> ov.Node:
    """The size of one axis, an i64 scalar."""
    return opset.gather(opset.shape_of(x, "i64"), ops.i64(f"scalar{axis}", axis), ops.i64("axis0", 0))


def _loop(ops: OpenVINOOps, verb: GatedDeltaRule, steps: Sequence[ov.Node], state: ov.Node) -> tuple[ov.Node, ov.Node]:
    """query, key, value `[B, H, T, D]`, decay and share `[B, H, T]`, state -> outputs `[B, H, T, D_v]` and the last state."""
    value = steps[2]
    body, results = _body(ops, verb)
    loop = opset.loop(_size(ops, value, 2), ops.file.small("const/true", "boolean", True))
    parameters = body.get_parameters()
    loop.set_function(body)
    loop.set_special_body_ports([0, 0])
    for parameter, step in zip(parameters[1:6], steps, strict=True):
        loop.set_sliced_input(parameter, step.output(0), 0, 1, 1, -1, 2)
    empty = opset.broadcast(ops.f32("zero", 0.0), opset.shape_of(value, "i64"))
    loop.set_merged_input(parameters[6], state.output(0), results[1].output(0))
    loop.set_merged_input(parameters[7], empty.output(0), results[2].output(0))
    outs = (loop.get_iter_value(results[2].output(0), -1), loop.get_iter_value(results[1].output(0), -1))
    named(loop, f"{verb.at}.delta/loop")
    return outs


def _body(ops: OpenVINOOps, verb: GatedDeltaRule) -> tuple[ov.Model, list[ov.Node]]:
    """One token; parameters: its number, query, key, value, decay, share, state, outputs so far; results: go on, state, outputs."""
    heads, keys, values = verb.value_heads, verb.key_size, verb.value_size
    shapes = [
        [], [-1, heads, 1, keys], [-1, heads, 1, keys], [-1, heads, 1, values], [-1, heads, 1], [-1, heads, 1],
        [-1, heads, keys, values], [-1, heads, -1, values],
    ]  # fmt: skip
    types = [ov.Type.i64, *[ov.Type.f32] * 7]
    parameters = [opset.parameter(ov.PartialShape(shape), kind) for shape, kind in zip(shapes, types, strict=True)]
    number, query, key, value, decay, share, before, outs = parameters

    def axis(place: int) -> ov.Node:
        return ops.file.inner(f"const/body/axis{place}", "i64", place)

    held = opset.multiply(before, opset.unsqueeze(opset.exp(decay), axis(-1)))
    column = opset.unsqueeze(opset.squeeze(key, axis(2)), axis(-1))
    known = opset.reduce_sum(opset.multiply(held, column), axis(-2), False)
    change = opset.multiply(opset.subtract(opset.squeeze(value, axis(2)), known), share)
    after = opset.add(held, opset.multiply(column, opset.unsqueeze(change, axis(-2))))
    asked = opset.unsqueeze(opset.squeeze(query, axis(2)), axis(-1))
    out = opset.reduce_sum(opset.multiply(after, asked), axis(-2), True)
    written = opset.scatter_update(outs, opset.unsqueeze(number, axis(0)), out, axis(2))
    go_on = ops.file.inner("const/true", "boolean", True)
    results = [opset.result(node) for node in (go_on, after, written)]
    return ov.Model(results, parameters, "gated_delta_rule"), results
