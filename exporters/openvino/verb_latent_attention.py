"""`latent_attention` as OpenVINO nodes: projections absorbed into queries and outputs, around ScaledDotProductAttention."""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.exporters.openvino.weight_matrix import weight_matrix
from ovround.models.parts.latent_attention import LatentHeads


def compute(ops: OpenVINOOps, verb: LatentHeads, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """Queries `[B, T, H * (N + P)]`, latent `[B, T, R]`, key `[B, T, P]` -> `[B, T, H * V]`.

    A value is the key before its rotation; what the rotated features come to is cut off.
    """
    at, heads, nope, rank = f"model.layers.{layer}.self_attn", verb.num_heads, verb.nope_dim, verb.latent_rank
    dim, head_dim = verb.rope.dim, verb.attention.head_dim
    query, latent, rotated = inputs
    if verb.interleaved:
        order = ops.i64(f"pairs/{dim}", verb.rotated_order())
        rotated = opset.gather(rotated, order, ops.i64("axis2", 2))
    shared = opset.concat([rotated, latent], -1)
    query = opset.reshape(query, ops.i64(f"split/{heads}x{nope + dim}", [0, 0, heads, nope + dim]), True)
    query = opset.gather(query, ops.i64(f"query/{nope}+{dim}", verb.query_order()), ops.i64("axis_three", 3))
    parts = opset.variadic_split(query, ops.i64("axis_three", 3), ops.i64(f"sizes/{dim}+{nope}", [dim, nope]))
    matrix = opset.reshape(
        weight_matrix(ops, f"{at}.k_b_proj"), ops.i64(f"matrix/{nope}x{rank}", [heads, nope, rank]), False
    )
    own = _by_head(ops, parts.output(1), matrix, transposed=False)
    query = opset.concat([parts.output(0), own], -1)
    query = opset.reshape(query, ops.i64(f"joined/{heads * head_dim}", [0, 0, heads * head_dim]), True)
    out = ops.attention(query, shared, shared, layer, verb.attention)
    out = opset.reshape(out, ops.i64(f"split/{heads}x{head_dim}", [0, 0, heads, head_dim]), True)
    ends = ops.i64(f"feature/{dim}", [dim]), ops.i64(f"feature/{head_dim}", [head_dim])
    out = opset.slice(out, *ends, ops.i64("one1", [1]), ops.i64("axis3", [3]))
    shape = ops.i64(f"matrix/{verb.value_dim}x{rank}", [heads, verb.value_dim, rank])
    out = _by_head(ops, out, opset.reshape(weight_matrix(ops, f"{at}.v_b_proj"), shape, False), transposed=True)
    size = heads * verb.value_dim
    return opset.reshape(out, ops.i64(f"joined/{size}", [0, 0, size]), True)


def _by_head(ops: OpenVINOOps, x: ov.Node, matrices: ov.Node, *, transposed: bool) -> ov.Node:
    """`[B, T, H, K]` by each head's matrix `[H, K, N]`, or `[H, N, K]` where it lies `transposed` -> `[B, T, H, N]`."""
    order = ops.i64("heads_order", [0, 2, 1, 3])
    product = opset.matmul(opset.transpose(x, order), matrices, False, transposed)
    return opset.transpose(product, order)
