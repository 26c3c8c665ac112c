"""Rotation of queries and keys, written as the CPU plugin fuses it (RoPE)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.nodes import named
from ovround.models.ops import Attention
from ovround.models.rope import Rope

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps


def rotated(ops: OpenVINOOps, x: ov.Node, spec: Attention, name: str) -> ov.Node:
    """The first features of `[B, H, T, D]` turned: feature j with feature j + dim / 2."""
    assert spec.rope is not None  # noqa: S101  the caller looked
    dim, interleaved, cos_sin = spec.rope.dim, spec.rope.interleaved, _cos_sin(ops, spec.rope)
    turning = x if dim == spec.head_dim else _features(ops, x, 0, dim)
    turned = _turned(ops, _halves(ops, turning, dim) if interleaved else turning, dim // 2, cos_sin)
    if dim == spec.head_dim:
        return named(turned, name)
    return named(opset.concat([turned, _features(ops, x, dim, spec.head_dim)], -1), name)


def _cos_sin(ops: OpenVINOOps, rope: Rope) -> tuple[ov.Node, ov.Node]:
    """cos and sin `[B, 1, T, dim]` of the position ids, shared by all layers with the same rope."""
    if rope not in ops.rotations:
        ones = ops.i64("ones2", [1, 1])
        batch_shape = opset.concat([ops.batch, ones], 0)
        frequencies = _frequencies(ops, rope, f"rope{len(ops.rotations)}")
        spread = opset.broadcast(frequencies, batch_shape, broadcast_spec="BIDIRECTIONAL")
        positions = opset.convert(opset.unsqueeze(ops.position_ids, ops.i64("axis1", 1)), "f32")
        angles = opset.transpose(opset.matmul(spread, positions, False, False), ops.i64("order021", [0, 2, 1]))
        both = opset.concat([angles, angles], -1)
        axis = ops.i64("axis1", 1)
        cos_sin = opset.cos(both), opset.sin(both)
        if rope.attention_factor != 1:
            cos_sin = ops.scale(cos_sin[0], rope.attention_factor), ops.scale(cos_sin[1], rope.attention_factor)
        ops.rotations[rope] = opset.unsqueeze(cos_sin[0], axis), opset.unsqueeze(cos_sin[1], axis)
    return ops.rotations[rope]


def _frequencies(ops: OpenVINOOps, rope: Rope, at: str) -> ov.Node:
    """Inverse frequencies `[1, dim / 2, 1]`; some ropes choose them by the longest row, as transformers does."""
    plain = ops.f32(f"{at}/inverse_frequencies", rope.inverse_frequencies().reshape(1, -1, 1))
    if not rope.follows_length:
        return plain
    last = opset.convert(opset.reduce_max(ops.position_ids, ops.i64("axes01", [0, 1]), False), "f32")
    length = opset.add(last, ops.f32("one", 1.0))
    original = rope.original_max_position_embeddings
    if rope.variant == "longrope":
        long = ops.f32(f"{at}/long", rope.inverse_frequencies(original + 1).reshape(1, -1, 1))
        return opset.select(opset.greater(length, ops.f32(f"{at}/original", original)), long, plain)
    excess = opset.subtract(ops.scale(length, 1 / original), ops.f32("one", 1.0))
    excess = opset.maximum(excess, ops.f32("zero", 0.0))
    stretch = opset.add(ops.scale(excess, rope.factor), ops.f32("one", 1.0))
    exponents = ops.f32(f"{at}/exponents", rope.stretch_exponents().reshape(1, -1, 1))
    return opset.multiply(plain, opset.power(stretch, exponents))


def _turned(ops: OpenVINOOps, x: ov.Node, half: int, cos_sin: tuple[ov.Node, ov.Node]) -> ov.Node:
    first, second = _features(ops, x, 0, half), _features(ops, x, half, None)
    turned = opset.concat([opset.multiply(second, ops.f32("minus_one", [[[[-1.0]]]])), first], -1)
    return opset.add(opset.multiply(x, cos_sin[0]), opset.multiply(turned, cos_sin[1]))


def _halves(ops: OpenVINOOps, x: ov.Node, dim: int) -> ov.Node:
    """Features 0, 1, 2, ... of `[B, H, T, dim]` as 0, 2, ..., 1, 3, ...: interleaved pairs in the order of the fused rotation.

    Queries and keys alike, so that their products stay the same; no kernel of the CPU plugin rotates neighbours.
    """
    pairs = opset.reshape(x, ops.i64(f"pairs/{dim}", [0, 0, 0, dim // 2, 2]), True)
    halves = opset.transpose(pairs, ops.i64("order01243", [0, 1, 2, 4, 3]))
    return opset.reshape(halves, ops.i64(f"halves/{dim}", [0, 0, 0, dim]), True)


def _features(ops: OpenVINOOps, x: ov.Node, start: int, end: int | None) -> ov.Node:
    """Features `start` to `end` of `[B, H, T, D]`."""
    ends = ops.i64(f"feature/{end}", [2**31 - 1 if end is None else end])
    return opset.slice(x, ops.i64(f"feature/{start}", [start]), ends, ops.i64("one1", [1]), ops.i64("axis3", [3]))
