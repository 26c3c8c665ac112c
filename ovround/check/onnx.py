"""Traps in an ONNX model: what ONNX Runtime 1.31's CPU provider does with each form of quantised weight."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ovround.artifact.manifest import MANIFEST
from ovround.check.finding import Finding, Rule
from ovround.errors import CheckpointError

ORT = ("onnxruntime",)
BLOCKS = (16, 32, 64, 128, 256)
_INLINE_BYTES = 1 << 20
_EVERY_CALL = "ONNX Runtime decodes the whole weight to float32 on every call: 30 to 250 times as long a token"
_SCALES, _ZERO_POINTS, _G_IDX = 2, 3, 4  # inputs of MatMulNBits

WIDTH = Rule(
    "width", "fails", ORT, "MatMulNBits takes 2, 4 and 8 bits", "3 bits in 4: `ovround convert` writes them so"
)
BLOCK = Rule(
    "block-size", "fails", ORT, "blocks are 16, 32, 64, 128 or 256 inputs", "repeat scales over smaller blocks"
)
LEVEL = Rule(
    "accuracy-level", "slow", ORT, "2- or 8-bit weights without accuracy_level 4: " + _EVERY_CALL, "accuracy_level 4"
)
BLOCK_2 = Rule("2-bit-blocks", "slow", ORT, "2-bit blocks of 16 or 256: " + _EVERY_CALL, "blocks of 32, 64 or 128")
G_IDX = Rule(
    "g-idx", "wrong", ORT, "g_idx: 2-bit weights and packed zero points give wrong numbers, 8-bit ones an error",
    "gather the columns of the input instead: `ovround convert` of the checkpoint does",
)  # fmt: skip
FLOAT_ZERO = Rule(
    "float-zero-point",
    "slow",
    ORT,
    "zero points in floating point: " + _EVERY_CALL,
    "whole zero points, packed as uint8",
)
FLOAT_ZERO_8 = Rule(
    "float-zero-point-8", "fails", ORT, "8-bit weights with zero points in floating point fail when they run", "uint8"
)
PREPACKED = Rule("prepacked", "fails", ORT, "weight_prepacked is for another provider than the CPU", "0")
HEAD = Rule(
    "rounded-head", "note", ORT,
    "lm_head has 4 bits or fewer in a folder that ovround did not write: onnxruntime-genai's builder rounds it to nearest, "
    "also where the checkpoint left it in float",
    "extra option nodes_to_exclude=/lm_head/MatMul of the builder, or `ovround convert --lm-head-bits 8`",
)  # fmt: skip
INLINE = Rule(
    "inline-weights",
    "slow",
    ORT,
    "weights lie inside the model file: loading takes about twice the memory",
    "external data",
)
OUTSIDE = Rule(
    "outside", "fails", ORT, "external data is named outside the folder", "do not load it: it was tampered with"
)
BF16 = Rule(
    "bfloat16", "fails", ORT, "the CPU provider has MatMulNBits for float32 and float16, not for bfloat16",
    "scales in float16 or float32",
)  # fmt: skip
OV_TABLE = Rule(
    "gather-block", "note", ("openvino",), "OpenVINO's reader of ONNX does not know GatherBlockQuantized, a quantised embedding",
    "--embedding-bits 16, or --format openvino",
)  # fmt: skip
UNFUSED = Rule(
    "unfused-dequantise", "slow", ORT,
    "DequantizeLinear of [N, K] with a Transpose is not fused on the CPU: " + _EVERY_CALL, "weights [K, N], axis 0; or MatMulNBits",
)  # fmt: skip


def check_onnx(path: Path) -> list[Finding]:
    """The findings for the model at `path`; raises CheckpointError for a file that is no ONNX model."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise CheckpointError(f"`{path}` is no ONNX model: {error}") from error
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.UINT8}
    bf16 = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.BFLOAT16}
    transposed = {name for node in model.graph.node if node.op_type == "Transpose" for name in node.input}
    ours = (path.parent / MANIFEST).is_file()
    affected: dict[Rule, list[str]] = {}
    for node in model.graph.node:
        for rule in _rules(node, floats, bf16, transposed, ours=ours):
            affected.setdefault(rule, []).append(node.name or node.op_type)
    findings = [finding for rule, nodes in affected.items() for finding in rule.at(nodes)]
    inline = [tensor.name for tensor in model.graph.initializer if len(tensor.raw_data) >= _INLINE_BYTES]
    return findings + INLINE.at(inline) + OUTSIDE.at(_outside(model))


def _rules(node: Any, floats: set[str], bf16: set[str], transposed: set[str], *, ours: bool) -> list[Rule]:
    values = {item.name: item.i for item in node.attribute if item.type == onnx.AttributeProto.INT}
    if node.op_type == "DequantizeLinear":
        return [UNFUSED] if set(node.output) & transposed and "block_size" in values else []
    if node.op_type == "GatherBlockQuantized":
        return [*([WIDTH] if values.get("bits", 4) not in (2, 4, 8) else []), OV_TABLE]
    if node.op_type != "MatMulNBits":
        return []
    bits, block, level = values.get("bits", 4), values.get("block_size", 0), values.get("accuracy_level", 0)
    inputs = [*node.input, "", "", "", ""]
    float_zero = inputs[_ZERO_POINTS] in floats and inputs[_ZERO_POINTS] != ""
    rules = [
        (WIDTH, bits not in (2, 4, 8)),
        (BLOCK, block not in BLOCKS),
        (LEVEL, bits in (2, 8) and level != 4),
        (BLOCK_2, bits == 2 and block in (16, 256)),
        (G_IDX, inputs[_G_IDX] != ""),
        (FLOAT_ZERO, float_zero and bits != 8),
        (FLOAT_ZERO_8, float_zero and bits == 8),
        (BF16, inputs[_SCALES] in bf16),
        (PREPACKED, values.get("weight_prepacked", 0) != 0),
        (HEAD, not ours and "lm_head" in node.name and bits <= 4),
    ]
    return [rule for rule, holds in rules if holds]


def _outside(model: Any) -> list[str]:
    names = []
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            path = PurePosixPath(item.value.replace("\\", "/"))
            if item.key == "location" and (path.is_absolute() or ".." in path.parts):
                names.append(tensor.name)
    return names
