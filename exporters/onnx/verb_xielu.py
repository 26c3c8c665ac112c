"""`Xielu` as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence

from ovround.exporters.onnx.ops import OnnxOps
from ovround.models.parts.dense import Xielu


def compute(ops: OnnxOps, verb: Xielu, inputs: Sequence[str], layer: int) -> str:
    """Any shape -> the same."""
    (x,), at, beta = inputs, verb.at, ops.f32(f"xielu/{verb.beta!r}", verb.beta)
    positive, negative = (
        ops.node("Softplus", [ops.float_weight(f"{at}.{name}")], f"{at}/{name}") for name in ("alpha_p", "alpha_n")
    )
    above = ops.node("Mul", [ops.activation(x, "relu2"), positive], f"{at}/above")
    curve = ops.node("Sub", [ops.node("Elu", [x], f"{at}/elu", alpha=1.0), x], f"{at}/curve")
    factor = ops.node("Add", [negative, beta], f"{at}/factor")
    below = ops.node("Mul", [curve, factor], f"{at}/below")
    line = ops.node("Mul", [x, beta], f"{at}/line")
    return ops.node("Add", [ops.node("Add", [above, below], f"{at}/bent"), line], at)
