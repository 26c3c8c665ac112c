"""The operations of `altup` as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import openvino as ov
from openvino import opset13 as opset

from ovround.models.parts import altup

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps


def compute(ops: OpenVINOOps, verb: Any, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    return _OPERATIONS[type(verb)](ops, verb, *inputs)


def _take(ops: OpenVINOOps, verb: altup.TakeStream, x: ov.Node) -> ov.Node:
    size = _features(x) // verb.count
    start, end = (ops.i64(f"feature/{at}", [at]) for at in (verb.index * size, (verb.index + 1) * size))
    return opset.slice(x, start, end, ops.i64("one1", [1]), ops.i64("axis_2", [2]))


def _join(ops: OpenVINOOps, verb: altup.JoinStreams, *streams: ov.Node) -> ov.Node:
    return opset.concat(list(streams), -1)


def _mix(ops: OpenVINOOps, verb: altup.MixStreams, x: ov.Node, coefficients: ov.Node) -> ov.Node:
    rows = _apart(ops, coefficients, verb.count, verb.count)
    mixed = opset.matmul(rows, _apart(ops, x, verb.count, _features(x) // verb.count), False, False)
    return opset.add(x, _together(ops, mixed, _features(x)))


def _correct(
    ops: OpenVINOOps, verb: altup.CorrectStreams, x: ov.Node, innovation: ov.Node, coefficients: ov.Node
) -> ov.Node:
    shares = opset.unsqueeze(opset.add(coefficients, ops.f32("one", 1.0)), ops.i64("axis3", [3]))
    change = opset.multiply(shares, opset.unsqueeze(innovation, ops.i64("axis_2", [2])))
    return opset.add(x, _together(ops, change, _features(x)))


def _add(ops: OpenVINOOps, verb: altup.AddToOthers, x: ov.Node, y: ov.Node) -> ov.Node:
    none = ops.scale(y, 0.0)
    return opset.add(x, opset.concat([none, *([y] * (verb.count - 1))], -1))


def _match(ops: OpenVINOOps, verb: altup.MatchMagnitude, y: ov.Node, x: ov.Node) -> ov.Node:
    axis, two = ops.i64("last_axis", [-1]), ops.f32("two", 2.0)
    wanted, has = (opset.reduce_mean(opset.power(value, two), axis, True) for value in (x, y))
    least = ops.f32(f"least/{altup.LEAST!r}", altup.LEAST)
    return opset.multiply(y, opset.sqrt(opset.divide(wanted, opset.maximum(has, least))))


def _features(x: ov.Node) -> int:
    size: int = x.output(0).get_partial_shape()[2].get_length()
    return size


def _apart(ops: OpenVINOOps, x: ov.Node, count: int, size: int) -> ov.Node:
    """`[B, T, count * size]` -> `[B, T, count, size]`."""
    return opset.reshape(x, ops.i64(f"split/{count}x{size}", [0, 0, count, size]), True)


def _together(ops: OpenVINOOps, x: ov.Node, size: int) -> ov.Node:
    return opset.reshape(x, ops.i64(f"joined/{size}", [0, 0, size]), True)


_OPERATIONS: dict[type, Callable[..., ov.Node]] = {
    altup.TakeStream: _take,
    altup.JoinStreams: _join,
    altup.MixStreams: _mix,
    altup.CorrectStreams: _correct,
    altup.AddToOthers: _add,
    altup.MatchMagnitude: _match,
}
