"""`causal_convolution` as com.microsoft's CausalConvWithState, which ONNX Runtime has for this purpose."""

from __future__ import annotations

from collections.abc import Sequence

from ovround.exporters.onnx.ops import MICROSOFT, OnnxOps
from ovround.models.parts.causal_convolution import TAIL, CausalConvolution


def compute(ops: OnnxOps, verb: CausalConvolution, inputs: Sequence[str], layer: int) -> str:
    """Inputs with C features together -> `[B, T, C]`. The operator's layout is `[B, C, T]`; our runtime never pads."""
    at, turned = verb.at, [0, 2, 1]
    x = inputs[0] if len(inputs) == 1 else ops.node("Concat", [*inputs], f"{at}/inputs", axis=-1)
    given = ops.node("Transpose", [x], f"{at}/channels_first", perm=turned)
    bias = ops.float_weight(f"{at}.bias") if verb.bias else ""
    tail = f"{at}/tail"
    out = ops.node(
        "CausalConvWithState", [given, ops.float_weight(f"{at}.weight"), bias, ops.past(layer, TAIL)], at, MICROSOFT,
        [tail], activation="silu" if verb.silu else "none",
    )  # fmt: skip
    ops.keep(layer, TAIL, tail)
    return ops.node("Transpose", [out], f"{at}/channels_last", perm=turned)
