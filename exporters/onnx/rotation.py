"""Rotation of queries and keys by an operator of its own, where GroupQueryAttention does not rotate itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from ovround.models.ops import Attention
from ovround.models.rope import Rope

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps

_FLOAT = int(onnx.TensorProto.FLOAT)
_MICROSOFT = "com.microsoft"
_HEAD_MULTIPLE = 16  # head sizes that GroupQueryAttention rotates itself


def rotates_itself(spec: Attention) -> bool:
    """Whether GroupQueryAttention rotates: whole heads of a size that it takes, by tables that do not change with the length."""
    rope = spec.rope
    whole = rope is not None and rope.dim == spec.head_dim and not rope.follows_length and spec.rotated_norm_eps is None
    return whole and spec.head_dim % _HEAD_MULTIPLE == 0


def tables(ops: OnnxOps, rope: Rope) -> tuple[str, str]:
    """cos and sin `[max_position_embeddings, dim / 2]`, shared by all layers with the same rope."""
    if rope not in ops.rotations:
        names = f"rope{len(ops.rotations)}/cos", f"rope{len(ops.rotations)}/sin"
        for name, table in zip(names, rope.cos_sin(ops.config.max_position_embeddings), strict=True):
            ops.file.write(name, _FLOAT, table.shape, table)
        ops.rotations[rope] = names
    return ops.rotations[rope]


def rotated(ops: OnnxOps, x: str, rope: Rope, heads: int) -> str:
    """`[B, T, heads * D]` turned by its own operator, where GroupQueryAttention cannot."""
    if rope.follows_length:
        positions, cos_sin = _computed(ops, rope)
    else:
        positions, cos_sin = ops.positions(), tables(ops, rope)
    return ops.node(
        "RotaryEmbedding",
        [x, positions, *cos_sin],
        f"{x}/rope",
        _MICROSOFT,
        num_heads=heads,
        rotary_embedding_dim=rope.dim,
        interleaved=int(rope.interleaved),
    )


def _computed(ops: OnnxOps, rope: Rope) -> tuple[str, tuple[str, str]]:
    """For each token a row of tables, int64 `[B, T]`, and the tables `[B * T, dim / 2]`, computed for these tokens alone."""
    if rope not in ops.rotations:
        at = f"rope{len(ops.rotations)}"
        positions = ops.node("Reshape", [ops.positions(), ops.i64("column", [-1, 1])], f"{at}/positions")
        count = ops.node("Size", [positions], f"{at}/count")
        rows = ops.node("Range", [ops.i64("zero", 0), count, ops.i64("one", 1)], f"{at}/row_numbers")
        ops.node("Reshape", [rows, ops.node("Shape", ["input_ids"], f"{at}/ids_shape")], f"{at}/rows")
        positions = ops.node("Cast", [positions], f"{at}/positions_float", to=_FLOAT)
        angles = ops.node("Mul", [positions, _frequencies(ops, rope, at)], f"{at}/angles")
        factor = ops.f32(f"{at}/attention_factor", rope.attention_factor)
        cos, sin = (
            ops.node("Mul", [ops.node(kind, [angles], f"{at}/{kind}"), factor], f"{at}/{kind.lower()}")
            for kind in ("Cos", "Sin")
        )
        ops.rotations[rope] = cos, sin
    return ops.rotations[rope][0].replace("/cos", "/rows"), ops.rotations[rope]


def _frequencies(ops: OnnxOps, rope: Rope, at: str) -> str:
    """Inverse frequencies `[dim / 2]` for the longest row."""
    plain = ops.f32(f"{at}/inverse_frequencies", rope.inverse_frequencies())
    longest = ops.node("ReduceMax", [ops.row_lengths()], f"{at}/longest", keepdims=0)
    length = ops.node("Cast", [longest], f"{at}/length", to=_FLOAT)
    original = rope.original_max_position_embeddings
    if rope.variant == "longrope":
        long = ops.f32(f"{at}/long", rope.inverse_frequencies(original + 1))
        is_long = ops.node("Greater", [length, ops.f32(f"{at}/original", original)], f"{at}/is_long")
        return ops.node("Where", [is_long, long, plain], f"{at}/frequencies")
    excess = ops.node("Sub", [ops.scale(length, 1 / original), ops.f32("one", 1.0)], f"{at}/excess")
    excess = ops.node("Max", [excess, ops.f32("zero", 0.0)], f"{at}/excess_or_none")
    stretch = ops.node("Add", [ops.scale(excess, rope.factor), ops.f32("one", 1.0)], f"{at}/stretch")
    power = ops.node("Pow", [stretch, ops.f32(f"{at}/exponents", rope.stretch_exponents())], f"{at}/power")
    return ops.node("Mul", [plain, power], f"{at}/frequencies")
