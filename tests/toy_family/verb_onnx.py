"""`gated_recurrence` as an ONNX Scan over the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from ovround.exporters.onnx.ops import OnnxOps
from toy_family.gated_recurrence import GatedRecurrence


def compute(ops: OnnxOps, verb: GatedRecurrence, inputs: Sequence[str], layer: int) -> str:
    """`[B, T, size]` twice -> `[B, T, size]`. Our runtime never pads, so that every token is real."""
    at = f"model.layers.{layer}.gated_recurrence"
    share = ops.node("Sigmoid", [inputs[0]], f"{at}/share")
    rest = ops.node("Sub", [ops.f32("one", 1.0), share], f"{at}/rest")
    fresh = ops.node("Mul", [rest, inputs[1]], f"{at}/fresh")
    of_token = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch_size", verb.size])
        for name in ("before", "share", "fresh", "after", "hidden")
    ]
    nodes = [
        onnx.helper.make_node("Mul", ["share", "before"], ["kept"]),
        onnx.helper.make_node("Add", ["kept", "fresh"], ["after"]),
        onnx.helper.make_node("Identity", ["after"], ["hidden"]),
    ]
    body = onnx.helper.make_graph(nodes, "gated_recurrence", of_token[:3], of_token[3:])
    scanned = {"num_scan_inputs": 2, "scan_input_axes": [1, 1], "scan_output_axes": [1]}
    last, every = f"{at}/last", f"{at}/every"
    ops.node("Scan", [ops.past(layer, "hidden"), share, fresh], last, "", [every], body=body, **scanned)
    ops.keep(layer, "hidden", last)
    return every
