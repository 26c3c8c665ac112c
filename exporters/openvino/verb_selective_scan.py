"""`selective_scan` as OpenVINO nodes: one chunk of all tokens of the step, by matrix products; at a single token a few small ones.

The products within the chunk take memory by the square of its tokens, so that engines give long prompts in pieces. No loop:
its body would copy the state into and out of every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.nodes import named
from ovround.exporters.openvino.ops import MASKED, OpenVINOOps
from ovround.models.parts.selective_scan import SCAN_STATE, SelectiveScan

FLOAT32_MOST = 3.0e38


def compute(ops: OpenVINOOps, verb: SelectiveScan, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """`[B, T, H*P + 2*G*N]` and `[B, T, H]` -> `[B, T, H*P]`; a step of 0 at padding leaves the state as it is."""
    sizes = ops.i64(f"sizes/{verb.joined_sizes}", list(verb.joined_sizes))
    x, keys, queries = opset.variadic_split(inputs[0], ops.i64("axis2", 2), sizes).outputs()
    values = _by_head(ops, x, verb.heads, verb.head_dim)
    keys, queries = (_by_head(ops, part, verb.groups, verb.state_size) for part in (keys, queries))
    steps = _steps(ops, verb, inputs[1])  # [B, H, T, 1]
    scaled = opset.multiply(steps, _decay(ops, verb))
    logs = opset.cum_sum(scaled, ops.i64("axis2", 2))
    gained = opset.multiply(values, steps)
    before = ops.past(layer, SCAN_STATE)  # [B, H, N, P]
    shares = opset.exp(_masked(ops, opset.subtract(logs, opset.transpose(logs, ops.i64("order0132", [0, 1, 3, 2])))))
    likeness = _repeated(ops, verb, opset.matmul(queries, keys, False, True))  # [B, H, T, T]
    within = opset.matmul(opset.multiply(likeness, shares), gained, False, False)
    keys, queries = _repeated(ops, verb, keys), _repeated(ops, verb, queries)
    carried = opset.multiply(opset.matmul(queries, before, False, False), opset.exp(logs))
    output = opset.add(opset.add(within, carried), opset.multiply(values, _of_head(ops, verb, "D")))
    last = opset.slice(
        logs, ops.i64("feature/-1", [-1]), ops.i64("feature/None", [2**31 - 1]), ops.i64("one1", [1]),
        ops.i64("axis2_1", [2]),
    )  # fmt: skip
    late = opset.multiply(gained, opset.exp(opset.subtract(last, logs)))
    after = opset.add(opset.multiply(before, opset.exp(last)), opset.matmul(keys, late, True, False))
    ops.keep(layer, SCAN_STATE, after)
    turned = opset.transpose(output, ops.i64("heads_order", [0, 2, 1, 3]))
    return named(opset.reshape(turned, ops.i64(f"joined/{verb.size}", [0, 0, verb.size]), True), f"{verb.at}.scan")


def _by_head(ops: OpenVINOOps, x: ov.Output, heads: int, size: int) -> ov.Node:
    """`[B, T, heads * size]` -> `[B, heads, T, size]`."""
    shape = ops.i64(f"split/{heads}x{size}", [0, 0, heads, size])
    return opset.transpose(opset.reshape(x, shape, True), ops.i64("heads_order", [0, 2, 1, 3]))


def _of_head(ops: OpenVINOOps, verb: SelectiveScan, name: str) -> ov.Node:
    """The tensor `name` `[H]` as `[1, H, 1, 1]`."""
    shape = ops.i64(f"by_head/{verb.heads}", [1, verb.heads, 1, 1])
    return opset.reshape(ops.weight(f"{verb.at}.{name}"), shape, False)


def _steps(ops: OpenVINOOps, verb: SelectiveScan, raw: ov.Node) -> ov.Node:
    """The steps d `[B, H, T, 1]`, 0 at padding."""
    steps = opset.softplus(opset.add(_by_head(ops, raw.output(0), verb.heads, 1), _of_head(ops, verb, "dt_bias")))
    if verb.is_limited:
        steps = opset.clamp(steps, verb.limits[0], min(verb.limits[1], FLOAT32_MOST))
    real = opset.convert(opset.unsqueeze(ops.real_tokens(), ops.i64("axes13", [1, 3])), "f32")
    return opset.multiply(steps, real)


def _decay(ops: OpenVINOOps, verb: SelectiveScan) -> ov.Node:
    """A `[1, H, 1, 1]`, below 0."""
    return opset.negative(opset.exp(_of_head(ops, verb, "A_log")))


def _masked(ops: OpenVINOOps, logs: ov.Node) -> ov.Node:
    """`[B, H, T, T]`, low enough for an exponential of 0 where a token would see a later one."""
    tokens = opset.squeeze(ops.axis_size(ops.input_ids, 1), ops.i64("axis0", 0))
    places = opset.range(ops.i64("scalar0", 0), tokens, ops.i64("scalar1", 1), "i64")
    sees = opset.greater_equal(opset.unsqueeze(places, ops.i64("axis1", 1)), places)
    return opset.select(sees, logs, ops.f32("masked", MASKED))


def _repeated(ops: OpenVINOOps, verb: SelectiveScan, x: ov.Node) -> ov.Node:
    """`[B, G, ...]` -> `[B, H, ...]`, or `[B, 1, ...]`, which broadcasts."""
    if verb.groups == 1:
        return x
    repeats = verb.heads // verb.groups
    groups = [head // repeats for head in range(verb.heads)]
    return opset.gather(x, ops.i64(f"groups/{verb.groups}x{repeats}", groups), ops.i64("axis1", 1))
