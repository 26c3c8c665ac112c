"""`causal_convolution` as OpenVINO nodes, in the one shape that the pass to paged attention reads (PagedCausalConv1DFusion).

It is state, tokens, Concat, GroupConvolution, Slice; the state has K inputs, one more than the convolution looks back on,
and the slice drops what that one adds. openvino_genai's continuous batching then computes it as PagedCausalConv1D. Its
default without paging, and our runtime, compute the nodes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.nodes import named
from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.models.parts.causal_convolution import TAIL, CausalConvolution


def compute(ops: OpenVINOOps, verb: CausalConvolution, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """Inputs with C features together -> `[B, T, C]`; padding counts as zeros."""
    channels, size, at = verb.channels, verb.kernel_size, verb.at
    order, end = ops.i64("order021", [0, 2, 1]), ops.i64("feature/None", [2**31 - 1])
    axis, step = ops.i64("axis2_1", [2]), ops.i64("one1", [1])
    x = inputs[0] if len(inputs) == 1 else opset.concat([*inputs], -1)
    tokens = opset.transpose(ops.without_padding(x), order)
    whole = opset.concat([ops.past(layer, TAIL, (channels, size)), tokens], -1)
    tail = opset.slice(whole, ops.i64(f"feature/{-size}", [-size]), end, step, axis)
    ops.keep(layer, TAIL, opset.reshape(tail, ops.i64(f"state/{[0, channels, size]}", [0, channels, size]), True))
    weight = opset.reshape(ops.weight(f"{at}.weight"), ops.i64(f"{at}/shape", [channels, 1, 1, size]), False)
    convolved = named(opset.group_convolution(whole, weight, [1], [0], [0], [1]), at)
    out = opset.slice(convolved, ops.i64("feature/1", [1]), end, step, axis)
    if verb.bias:
        out = opset.add(out, opset.reshape(ops.weight(f"{at}.bias"), ops.i64(f"{at}/bias", [1, channels, 1]), False))
    if verb.silu:
        out = ops.activation(out, "silu")
    return opset.transpose(out, order)
