"""Traps in an OpenVINO IR, read from its XML: what OpenVINO 2026.4's plugins do with each type of compressed weight.

The CPU's rules were measured, those of GPU and NPU were read in the plugins' source.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovround.check.finding import Finding, Rule
from ovround.errors import CheckpointError

CPU, GPU, NPU = "openvino", "openvino-gpu", "openvino-npu"
_INTEGERS = {"u1", "u2", "u3", "u4", "i4", "u6", "u8", "i8"}
_FLOATS = {"nf4", "f4e2m1", "f8e4m3", "f8e5m2"}
_PASSES = {"Convert", "Reshape", "Subtract", "Multiply", "Transpose"}
_DEQUANTISED = "the plugin expands the weight to float32 when it compiles: the memory of a model that is not quantised"
_SMALLEST_GROUP, _NPU_GROUP = 4, 128
_ROUTER = re.compile(r"(mlp\.gate|\.router|block_sparse_moe\.gate)(\.|/|$)")
_EXPERT_GROUP, _EXPERT_AXES = 32, 4  # [E, N, G, group]
_MOST_STEPS = 8  # from a constant to the operation that uses it

FOLDED = Rule("folded-width", "slow", (CPU,), _DEQUANTISED, "3 bits in i4 or u4: `ovround convert` writes them so")
U2_ZERO = Rule(
    "u2-zero-point", "fails", (CPU,),
    "2-bit weights with an unsigned or absent zero point crash the CPU plugin under bfloat16 with dynamic quantisation",
    "an i8 zero point, as `ovround convert` writes; or runtime option DYNAMIC_QUANTIZATION_GROUP_SIZE 0",
)  # fmt: skip
U2_GATHER = Rule("u2-embedding", "slow", (CPU,), "a 2-bit table has no Gather: " + _DEQUANTISED, "4 or 8 bits for it")
FLOAT4_GATHER = Rule(
    "float4-embedding",
    "slow",
    (CPU,),
    "a table of 4-bit floats has no Gather: " + _DEQUANTISED,
    "i4, u4, i8 or u8 for it",
)
EXPERT_WIDTH = Rule(
    "expert-width", "slow", (CPU,), "experts are multiplied compressed in 4 and 8 bits alone: others are decoded, all of them, "
    "for every inference", "4 bits: `ovround convert` stores 2- and 3-bit experts so",
)  # fmt: skip
EXPERT_GROUP = Rule(
    "expert-groups", "slow", (CPU,), "experts in groups that 32 does not divide are decoded for every inference",
    "groups of 32 or more",
)  # fmt: skip
ROUTER = Rule(
    "quantised-router", "note", (CPU, GPU),
    "a router is quantised, as NNCF does by default: tokens may go to other experts",
    "leave it in float, as `ovround convert` does; or NNCF's ignored scope",
)  # fmt: skip
U2_GPU = Rule("u2-gpu", "slow", (GPU,), "2-bit weights run by a reference kernel", "4 bits for a GPU")
DECODED = Rule(
    "decoded-weights", "slow", (CPU,), "8-bit float weights are decoded again for every inference", "i8 or u8 weights"
)
FLOAT4 = Rule(
    "float4", "slow", (CPU,), "4-bit float weights take about 2.5 times as long as i4 or u4", "i4 or u4 weights"
)
CODEBOOK = Rule(
    "codebook", "slow", (CPU,), "weights through a table of values are decoded again for every inference", "i4 or u4"
)
ZERO_TYPE = Rule(
    "zero-point-type", "slow", (CPU,),
    "zero points that are neither unsigned nor absent switch dynamic quantisation off: about 3 times as long a token",
    "zero points of the weights' own type, u4 or u8",
)  # fmt: skip
FRACTION = Rule(
    "fractional-zero-point", "slow", (GPU, NPU),
    "zero points are fractions, which compressed kernels do not take", "whole zero points: quantise by minimum and maximum",
)  # fmt: skip
SMALL_GROUP = Rule(
    "small-groups",
    "slow",
    (CPU,),
    f"groups below {_SMALLEST_GROUP} inputs do not fuse: " + _DEQUANTISED,
    "groups of 32 or more",
)
BF16_CHAIN = Rule(
    "bf16-chain",
    "slow",
    (CPU,),
    "weights are decoded in bfloat16, which does not fuse: " + _DEQUANTISED,
    "decode in f16",
)
NPU_GRID = Rule(
    "npu-scheme", "slow", (NPU,), "an NPU runs symmetric 4-bit weights in groups of 128 or whole rows, and symmetric 8-bit ones",
    "ovround convert MODEL OUT --sym --group-size 128 (or -1)",
)  # fmt: skip
SCALE_FACTOR = Rule(
    "activations-scale-factor", "wrong", (GPU,),
    "runtime option ACTIVATIONS_SCALE_FACTOR is not set: float16 overflows in deep layers of some models",
    "ACTIVATIONS_SCALE_FACTOR 8.0 in runtime_options, as `ovround convert` and optimum-intel write",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    kind: str
    element_type: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Weight:
    """A compressed constant, the zero point that is subtracted, the types it is decoded in, and what uses it."""

    constant: _Layer
    zero_point: _Layer | None
    decoded_in: frozenset[str]
    used_by: str
    port: int


def check_openvino(path: Path) -> list[Finding]:
    """The findings for the model at `path`; raises CheckpointError for an XML that is none."""
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314  expat bounds how much entities may grow
        layers, edges = _layers(root), _edges(root)
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise CheckpointError(f"`{path}` is no OpenVINO model: {error}") from error
    weights = [weight for identity in layers if (weight := _weight(identity, layers, edges))]
    affected: dict[Rule, list[str]] = {}
    for weight in weights:
        for rule in _rules(weight, path.with_suffix(".bin")):
            affected.setdefault(rule, []).append(weight.constant.name)
    findings = [finding for rule, names in affected.items() for finding in rule.at(names)]
    options = root.find("./rt_info/runtime_options")
    if weights and (options is None or options.find("ACTIVATIONS_SCALE_FACTOR") is None):
        findings += SCALE_FACTOR.at([path.name])
    return findings


def _rules(weight: _Weight, data: Path) -> list[Rule]:
    """The rules that a weight breaks."""
    constant, zero = weight.constant, weight.zero_point
    kind, table = constant.element_type, weight.used_by == "Gather"
    zero_type = None if zero is None else zero.element_type
    experts = len(constant.shape) == _EXPERT_AXES
    group = constant.shape[-1] if len(constant.shape) == 3 or experts else 0
    rows = constant.shape[1 if experts else 0]
    symmetric = kind in ("i4", "i8") and zero is None
    rules = [
        (FOLDED, kind in ("u1", "u3", "u6")),
        (U2_ZERO, kind == "u2" and not table and not experts and zero_type in (None, "u2", "u4", "u8")),
        (U2_GATHER, kind == "u2" and table),
        (FLOAT4_GATHER, kind in ("nf4", "f4e2m1") and table),
        (EXPERT_WIDTH, experts and kind not in ("u4", "i4", "u8", "i8")),
        (EXPERT_GROUP, experts and group % _EXPERT_GROUP != 0),
        (ROUTER, not table and _ROUTER.search(constant.name) is not None),
        (U2_GPU, kind == "u2"),
        (DECODED, kind in ("f8e4m3", "f8e5m2")),
        (FLOAT4, kind in ("nf4", "f4e2m1") and not table),
        (CODEBOOK, table and weight.port == 1),
        (ZERO_TYPE, kind in ("u4", "u8", "i4", "i8") and zero_type in ("i8", "f16", "f32", "bf16")),
        (FRACTION, zero is not None and zero_type in ("f16", "f32") and _fractional(zero, data)),
        (SMALL_GROUP, 0 < group < _SMALLEST_GROUP or rows == 1),
        (BF16_CHAIN, "bf16" in weight.decoded_in and kind in _INTEGERS),
        (NPU_GRID, not table and not (symmetric and (kind == "i8" or group in (0, _NPU_GROUP, _inputs(constant))))),
    ]
    return [rule for rule, holds in rules if holds]


def _inputs(constant: _Layer) -> int:
    return math.prod(constant.shape[2:] if len(constant.shape) == _EXPERT_AXES else constant.shape[1:])


def _layers(root: ElementTree.Element) -> dict[str, _Layer]:
    described = {}
    for layer in root.iterfind("./layers/layer"):
        data = layer.find("data")
        fields = {} if data is None else data.attrib
        kind = fields.get("element_type", fields.get("destination_type", ""))
        shape = tuple(int(size) for size in fields.get("shape", "").split(",") if size.strip().isdigit())
        offset, size = int(fields.get("offset", "0")), int(fields.get("size", "0"))
        described[layer.get("id", "")] = _Layer(layer.get("name", ""), layer.get("type", ""), kind, shape, offset, size)
    return described


def _edges(root: ElementTree.Element) -> dict[str, list[tuple[str, int]]]:
    """The consumers of each layer, with the number of the input that they take it in."""
    consumers: dict[str, list[tuple[str, int]]] = {}
    for edge in root.iterfind("./edges/edge"):
        consumers.setdefault(edge.get("from-layer", ""), []).append(
            (edge.get("to-layer", ""), int(edge.get("to-port", "0")))
        )
    return consumers


def _weight(identity: str, layers: dict[str, _Layer], edges: dict[str, list[tuple[str, int]]]) -> _Weight | None:
    """The compressed weight that begins at a constant; None for any other layer, and for a zero point or scale."""
    constant = layers[identity]
    if constant.kind != "Const" or constant.element_type not in _INTEGERS | _FLOATS or len(constant.shape) < 2:
        return None
    zero: _Layer | None = None
    types: set[str] = set()
    at, port = identity, 0
    for _ in range(_MOST_STEPS):
        following = edges.get(at, [])
        if not following or following[0][0] not in layers:
            return None
        at, port = following[0]
        layer = layers[at]
        if layer.kind not in _PASSES:
            return _Weight(constant, zero, frozenset(types), layer.kind, port)
        if port != 0:
            return None  # it is itself a zero point, a scale or a shape
        if layer.kind == "Convert":
            types.add(layer.element_type)
        if layer.kind == "Subtract":
            zero = _other_input(at, layers, edges)
    return None


def _other_input(
    at: str, layers: dict[str, _Layer], edges: dict[str, list[tuple[str, int]]], port: int = 1
) -> _Layer | None:
    """The constant that feeds input `port` of layer `at`, directly or through a Convert."""
    source = next((layer for layer, uses in edges.items() if (at, port) in uses and layer in layers), None)
    if source is None or layers[source].kind not in ("Const", "Convert"):
        return None
    return layers[source] if layers[source].kind == "Const" else _other_input(source, layers, edges, 0)


def _fractional(zero: _Layer, data: Path) -> bool:
    try:
        with data.open("rb") as file:
            file.seek(zero.offset)
            content = file.read(zero.size_bytes)
    except OSError:
        return False
    width = 2 if zero.element_type == "f16" else 4
    kind = np.dtype(np.float16 if width == 2 else np.float32)
    values = np.frombuffer(content[: len(content) // width * width], kind).astype(np.float32)
    return bool((values != np.round(values)).any())
