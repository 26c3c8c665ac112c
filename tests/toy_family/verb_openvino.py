"""`gated_recurrence` as an OpenVINO TensorIterator over the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.ops import OpenVINOOps
from toy_family.gated_recurrence import GatedRecurrence


def compute(ops: OpenVINOOps, verb: GatedRecurrence, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """`[B, T, size]` twice -> `[B, T, size]`; at padding the state stays as it is."""
    real = opset.unsqueeze(ops.real_tokens(), ops.i64("axis2", 2))
    share = opset.select(real, opset.sigmoid(inputs[0]), ops.f32("one", 1.0))
    fresh = opset.multiply(opset.subtract(ops.f32("one", 1.0), share), inputs[1])
    of_token = ov.PartialShape([-1, 1, verb.size])
    share_now, fresh_now = (opset.parameter(of_token, ov.Type.f32) for _ in range(2))
    before = opset.parameter(of_token, ov.Type.f32)
    after = opset.result(opset.add(opset.multiply(share_now, before), fresh_now))
    body = ov.Model([after], [share_now, fresh_now, before], "gated_recurrence")
    loop = opset.tensor_iterator()
    loop.set_body(body)
    loop.set_sliced_input(share_now, share.output(0), 0, 1, 1, -1, 1)
    loop.set_sliced_input(fresh_now, fresh.output(0), 0, 1, 1, -1, 1)
    past = opset.unsqueeze(ops.past(layer, "hidden"), ops.i64("axis1", 1))
    loop.set_merged_input(before, past.output(0), after.output(0))
    last = loop.get_iter_value(after.output(0), -1)
    every = loop.get_concatenated_slices(after.output(0), 0, 1, 1, -1, 1)
    ops.keep(layer, "hidden", opset.squeeze(last, ops.i64("axis1", 1)))
    return opset.reshape(every, ops.i64(f"tokens/{verb.size}", [0, -1, verb.size]), True)
