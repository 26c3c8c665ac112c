"""The operations of `altup` as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ovround.models.parts import altup

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps


def compute(ops: OnnxOps, verb: Any, inputs: Sequence[str], layer: int) -> str:
    return _OPERATIONS[type(verb)](ops, verb, *inputs)


def _take(ops: OnnxOps, verb: altup.TakeStream, x: str) -> str:
    streams = ops.node("Reshape", [x, _by_stream(ops, verb.count)], f"{x}/by_stream{verb.index}")
    index = ops.i64(f"stream/{verb.index}", verb.index)
    return ops.node("Gather", [streams, index], f"{x}/stream{verb.index}", axis=2)


def _join(ops: OnnxOps, verb: altup.JoinStreams, *streams: str) -> str:
    return ops.node("Concat", list(streams), f"{streams[0]}/streams", axis=-1)


def _mix(ops: OnnxOps, verb: altup.MixStreams, x: str, coefficients: str) -> str:
    rows = ops.node("Reshape", [coefficients, _by_stream(ops, verb.count)], f"{coefficients}/rows")
    streams = ops.node("Reshape", [x, _by_stream(ops, verb.count)], f"{coefficients}/streams")
    mixed = ops.node("MatMul", [rows, streams], f"{coefficients}/product")
    return ops.add(x, _together(ops, mixed))


def _correct(ops: OnnxOps, verb: altup.CorrectStreams, x: str, innovation: str, coefficients: str) -> str:
    shares = ops.node("Add", [coefficients, ops.f32("one", 1.0)], f"{coefficients}/shares")
    shares = ops.node("Unsqueeze", [shares, ops.i64("axis3", [3])], f"{coefficients}/column")
    row = ops.node("Unsqueeze", [innovation, ops.i64("axis2", [2])], f"{coefficients}/row")
    return ops.add(x, _together(ops, ops.node("Mul", [shares, row], f"{coefficients}/change")))


def _add(ops: OnnxOps, verb: altup.AddToOthers, x: str, y: str) -> str:
    none = ops.scale(y, 0.0)
    return ops.add(x, ops.node("Concat", [none, *([y] * (verb.count - 1))], f"{y}/others", axis=-1))


def _match(ops: OnnxOps, verb: altup.MatchMagnitude, y: str, x: str) -> str:
    axis = ops.i64("last", [-1])
    wanted, has = (
        ops.node("ReduceMean", [ops.node("Mul", [value, value], f"{y}/{what}"), axis], f"{y}/{what}_mean", keepdims=1)
        for what, value in (("wanted", x), ("has", y))
    )
    has = ops.node("Max", [has, ops.f32(f"least/{altup.LEAST!r}", altup.LEAST)], f"{y}/at_least")
    factor = ops.node("Sqrt", [ops.node("Div", [wanted, has], f"{y}/ratio")], f"{y}/factor")
    return ops.node("Mul", [y, factor], f"{y}/matched")


def _by_stream(ops: OnnxOps, count: int) -> str:
    return ops.i64(f"by_stream/{count}", [0, 0, count, -1])


def _together(ops: OnnxOps, x: str) -> str:
    return ops.node("Reshape", [x, ops.i64("together", [0, 0, -1])], f"{x}/together")


_OPERATIONS: dict[type, Callable[..., str]] = {
    altup.TakeStream: _take,
    altup.JoinStreams: _join,
    altup.MixStreams: _mix,
    altup.CorrectStreams: _correct,
    altup.AddToOthers: _add,
    altup.MatchMagnitude: _match,
}
