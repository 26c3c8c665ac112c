"""What some layers give GroupQueryAttention besides queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from ovround.models.ops import Attention

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps

_FLOAT = int(onnx.TensorProto.FLOAT)


def no_keys(ops: OnnxOps, spec: Attention) -> str:
    """Keys or values of no token, float32 `[B, 0, H_kv * D]`: the operator then reads the past alone, another layer's cache."""
    size = spec.num_key_value_heads * spec.head_dim
    name = f"no_keys/{size}"
    if name not in ops.emitted:
        batch = ops.node("Shape", ["input_ids"], f"{name}/batch", start=0, end=1)
        shape = ops.node("Concat", [batch, ops.i64(f"{name}/rest", [0, size])], f"{name}/shape", axis=0)
        ops.emitted.add(ops.node("Expand", [ops.f32("zero", 0.0), shape], name))
    return name


def alibi(ops: OnnxOps, spec: Attention) -> str:
    """ALiBi's bias, float32 `[1, H, T, S]`: each head's slope times the key's distance from the last; shared by layers."""
    name = f"alibi/{spec.num_heads}"
    if name not in ops.emitted:
        total, zero, i64_one = ops.width("attention_mask"), ops.i64("zero", 0), ops.i64("one", 1)
        keys = ops.node("Range", [zero, total, i64_one], f"{name}/keys")
        distances = ops.node("Sub", [keys, ops.node("Sub", [total, i64_one], f"{name}/last")], f"{name}/distances")
        distances = ops.node("Cast", [distances], f"{name}/distances_float", to=_FLOAT)
        slopes = ops.f32(f"{name}/slopes", np.array(spec.slopes(), np.float32).reshape(1, -1, 1, 1))
        bias = ops.node("Mul", [distances, slopes], f"{name}/row")
        tokens = ops.node("Unsqueeze", [ops.width("input_ids"), ops.i64("axis0", [0])], f"{name}/tokens")
        ones = ops.i64("ones2", [1, 1])
        bias_shape = ops.node("Concat", [ones, tokens, ops.i64("one1", [1])], f"{name}/shape", axis=0)
        ops.emitted.add(ops.node("Expand", [bias, bias_shape], name))
    return name
