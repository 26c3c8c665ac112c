"""`latent_attention` as ONNX nodes: projections absorbed into queries and outputs, around GroupQueryAttention."""

from __future__ import annotations

from collections.abc import Sequence

from ovround.exporters.onnx.ops import OnnxOps
from ovround.exporters.onnx.weight_matrix import weight_matrix
from ovround.models.parts.latent_attention import LatentHeads


def compute(ops: OnnxOps, verb: LatentHeads, inputs: Sequence[str], layer: int) -> str:
    """Queries `[B, T, H * (N + P)]`, latent `[B, T, R]`, key `[B, T, P]` -> `[B, T, H * V]`.

    A value is the key before its rotation; what the rotated features come to is cut off.
    """
    at, heads, nope, rank = f"model.layers.{layer}.self_attn", verb.num_heads, verb.nope_dim, verb.latent_rank
    dim, head_dim = verb.rope.dim, verb.attention.head_dim
    query, latent, rotated = inputs
    if verb.interleaved:
        order = ops.i64(f"pairs/{dim}", verb.rotated_order())
        rotated = ops.node("Gather", [rotated, order], f"{at}/k_rope/ordered", axis=2)
    shared = ops.node("Concat", [rotated, latent], f"{at}/shared", axis=-1)
    split = ops.i64(f"split/{heads}x{nope + dim}", [0, 0, heads, nope + dim])
    query = ops.node("Reshape", [query, split], f"{at}/q/heads")
    query = ops.node("Gather", [query, ops.i64(f"query/{nope}+{dim}", verb.query_order())], f"{at}/q/ordered", axis=3)
    turning, own = f"{at}/q/rope", f"{at}/q/own"
    ops.node("Split", [query, ops.i64(f"sizes/{dim}+{nope}", [dim, nope])], turning, "", [own], axis=-1)
    own = _by_head(ops, own, _matrix(ops, f"{at}.k_b_proj", [heads, nope, rank]), f"{at}/q/absorbed")
    query = ops.node("Concat", [turning, own], f"{at}/q/both", axis=-1)
    joined = ops.i64(f"join/{heads * head_dim}", [0, 0, heads * head_dim])
    query = ops.node("Reshape", [query, joined], f"{at}/q/joined")
    out = ops.attention(query, shared, shared, layer, verb.attention)
    out = ops.node("Reshape", [out, ops.i64(f"split/{heads}x{head_dim}", [0, 0, heads, head_dim])], f"{at}/out/heads")
    ends = ops.i64(f"feature/{dim}", [dim]), ops.i64(f"feature/{head_dim}", [head_dim])
    out = ops.node("Slice", [out, *ends, ops.i64("axis3", [3])], f"{at}/out/latent")
    value = _matrix(ops, f"{at}.v_b_proj", [heads, verb.value_dim, rank])
    value = ops.node("Transpose", [value], f"{at}.v_b_proj/turned", perm=[0, 2, 1])
    out = _by_head(ops, out, value, f"{at}/out/expanded")
    size = heads * verb.value_dim
    return ops.node("Reshape", [out, ops.i64(f"join/{size}", [0, 0, size])], f"{at}/out/joined")


def _by_head(ops: OnnxOps, x: str, matrices: str, name: str) -> str:
    """`[B, T, H, K]` by each head's matrix `[H, K, N]` -> `[B, T, H, N]`."""
    x = ops.node("Transpose", [x], f"{name}/by_head", perm=[0, 2, 1, 3])
    x = ops.node("MatMul", [x, matrices], f"{name}/product")
    return ops.node("Transpose", [x], name, perm=[0, 2, 1, 3])


def _matrix(ops: OnnxOps, at: str, shape: list[int]) -> str:
    """The decoded weight in `shape`; ONNX Runtime computes it once, when it loads the model."""
    return ops.node("Reshape", [weight_matrix(ops, at), ops.i64(f"matrix/{shape}", shape)], f"{at}/by_head")
