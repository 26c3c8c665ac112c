"""Attention, norms, rotation and activations of the exporters, in both engines against float64, each with an error bound.

A case is a model of one operator. Its inputs are rows of embeddings, selected by `input_ids` 0, 1, 2 ...; its output is
`logits`. The error is `mean((y - y64)^2) / mean(y64^2)`; the engines compute in float32 without further rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ovround.models.decoder import DecoderConfig
from ovround.models.ops import Attention, sinks_name
from ovround.models.parts.attention import SelfAttention
from ovround.models.rope import Rope
from ovround.tensors.float_tensor import FloatTensor

TOKENS, EPS = 40, 1e-5
Rows = NDArray[np.float64]
Build = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """`build` emits the operator, `expected` is its output `[T, N]` in float64, and `bound` is the largest allowed error."""

    weights: dict[str, NDArray[np.float32]]
    build: Build
    expected: Rows
    bound: float
    attention: Attention = field(default=Attention(2, 1, 16, 0.25))
    attends: bool = False


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


ERF = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS: dict[str, tuple[Callable[[Rows], Rows], float]] = {
    "silu": (lambda x: x / (1 + np.exp(-x)), 1e-13),
    "gelu": (lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2, 1e-13),
    "gelu_tanh": (lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2, 1e-13),
    "relu": (lambda x: np.maximum(x, 0), 1e-14),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 1e-13),
}


def activation(kind: str, *, gated: bool, width: int) -> Case:
    compute, bound = ACTIVATIONS[kind]
    x, y = 3 * numbers(1, TOKENS, width), numbers(2, TOKENS, width)
    expected = compute(x.astype(np.float64)) * (y if gated else 1)

    def build(ops: Any, ids: Any) -> Any:
        activated = ops.activation(ops.embedding(ids, "x"), kind)
        return ops.mul(activated, ops.embedding(ids, "y")) if gated else activated

    return Case({"x.weight": x, **({"y.weight": y} if gated else {})}, build, expected, bound)


def norm(kind: str, *, bias: bool, width: int, heads: int = 1, size: float = 1.0) -> Case:
    x, weight, shift = numbers(3, TOKENS, width) * np.float32(size), numbers(4, width // heads), numbers(5, width)
    parts = x.astype(np.float64).reshape(TOKENS, heads, -1)
    centred = parts - parts.mean(-1, keepdims=True) if kind == "layer" else parts
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS) * weight
    expected = normal.reshape(TOKENS, width) + (shift if bias else 0)
    weights = {"x.weight": x, "norm.weight": weight, **({"norm.bias": shift} if bias else {})}

    def build(ops: Any, ids: Any) -> Any:
        rows = ops.embedding(ids, "x")
        return ops.rms_norm(rows, "norm", EPS, heads) if kind == "rms" else ops.layer_norm(rows, "norm", EPS)

    return Case(weights, build, expected, 1e-13)


def residual_norm(width: int) -> Case:
    """A sum and its norm, which the ONNX exporter emits as one operator."""
    x, y, weight = numbers(6, TOKENS, width), numbers(7, TOKENS, width), numbers(8, width)
    total = x.astype(np.float64) + y
    normal = total / np.sqrt((total**2).mean(-1, keepdims=True) + EPS) * weight

    def build(ops: Any, ids: Any) -> Any:
        total = ops.add(ops.embedding(ids, "x"), ops.embedding(ids, "y"))
        return ops.add(ops.rms_norm(total, "norm", EPS), total)

    return Case({"x.weight": x, "y.weight": y, "norm.weight": weight}, build, normal + total, 1e-13)


def softcap(cap: float) -> Case:
    x = 30 * numbers(9, TOKENS, 64)
    return Case(
        {"x.weight": x},
        lambda ops, ids: ops.softcap(ops.embedding(ids, "x"), cap),
        cap * np.tanh(x.astype(np.float64) / cap),
        1e-13,
    )


def attention(bound: float = 1e-12, **settings: Any) -> Case:
    spec = Attention(**{"num_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "scale": 0.25, **settings})
    widths = {"q": spec.num_heads, "k": spec.num_key_value_heads, "v": spec.num_key_value_heads}
    weights = {
        f"{name}.weight": numbers(10 + at, TOKENS, heads * spec.head_dim)
        for at, (name, heads) in enumerate(widths.items())
    }
    if spec.sinks:
        weights[sinks_name(0)] = numbers(14, spec.num_heads)

    def build(ops: Any, ids: Any) -> Any:
        return ops.attention(*(ops.embedding(ids, name) for name in widths), 0, spec)

    return Case(weights, build, attended(spec, weights), bound, spec, attends=True)


def attended(spec: Attention, weights: dict[str, NDArray[np.float32]]) -> Rows:
    q, k, v = (weights[f"{name}.weight"].astype(np.float64).reshape(TOKENS, -1, spec.head_dim) for name in "qkv")
    if spec.rope is not None:
        q, k = rotated(q, spec.rope), rotated(k, spec.rope)
    here, outputs = np.arange(TOKENS), []
    distance = here[:, None] - here[None, :]
    for head in range(spec.num_heads):
        kv_head = head * spec.num_key_value_heads // spec.num_heads
        scores = q[:, head] @ k[:, kv_head].T * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        if spec.alibi:
            scores = scores - spec.slopes()[head] * distance
        seen = (distance >= 0) & (distance < (spec.sliding_window or TOKENS))
        powers = np.where(seen, np.exp(scores), 0)
        extra = math.exp(weights[sinks_name(0)][head]) if spec.sinks else 0
        outputs.append(powers / (powers.sum(-1, keepdims=True) + extra) @ v[:, kv_head])
    return np.stack(outputs, axis=1).reshape(TOKENS, -1)


def rotated(x: Rows, rope: Rope) -> Rows:
    """x `[T, H, D]` with feature j of the first `dim` rotated together with feature j + dim / 2."""
    half = rope.dim // 2
    angles = np.arange(TOKENS)[:, None, None] * rope.inverse_frequencies().astype(np.float64)
    cos, sin = np.cos(angles) * rope.attention_factor, np.sin(angles) * rope.attention_factor
    a, b = x[..., :half], x[..., half : rope.dim]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., rope.dim :]], -1)


ROPES = {
    "rope": Rope(16, 1e4), "half a head turns": Rope(8, 1e4), "linear rope": Rope(16, 1e4, "linear", factor=2.0),
    "llama3 rope": Rope(16, 1e4, "llama3", factor=8.0, original_max_position_embeddings=16),
    "yarn": Rope(16, 1e4, "yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=1.14),
}  # fmt: skip
CASES: dict[str, Case] = {
    **{
        f"{kind}{' gated' if gated else ''} of {width}": activation(kind, gated=gated, width=width)
        for kind in ACTIVATIONS for gated in (False, True) for width in (16, 80)
    },
    **{
        f"{kind} norm of {width}{' with bias' if bias else ''}, times {size}": norm(kind, bias=bias, width=width, size=size)
        for kind, bias in (("rms", False), ("layer", False), ("layer", True))
        for width in (16, 72, 512) for size in (1e-2, 1.0, 1e3)
    },
    **{f"rms norm of {heads} heads": norm("rms", bias=False, width=64, heads=heads) for heads in (2, 4)},
    "sum and norm": residual_norm(64), "softcap 5": softcap(5.0), "softcap 50": softcap(50.0),
    "attention": attention(), "every head its own key": attention(num_key_value_heads=4),
    "one key head": attention(num_key_value_heads=1), "heads of 64": attention(head_dim=64, scale=0.125),
    **{name: attention(rope=rope) for name, rope in ROPES.items()},
    "window of 8": attention(sliding_window=8, rope=ROPES["rope"]), "window of 1": attention(sliding_window=1),
    "capped": attention(softcap=2.0), "capped in a window": attention(softcap=2.0, sliding_window=8),
    "alibi": attention(alibi=True), "alibi of 6 heads": attention(num_heads=6, alibi=True),
    "sinks": attention(sinks=True), "sinks in a window": attention(sinks=True, sliding_window=8, rope=ROPES["rope"]),
}  # fmt: skip


def float_tensor(values: NDArray[np.float32]) -> FloatTensor:
    return FloatTensor(values, "float32")


def openvino(folder: Path, case: Case) -> Rows:
    import openvino as ov

    from ovround.exporters.openvino.compressed import write_weight
    from ovround.exporters.openvino.constants import ConstantFile
    from ovround.exporters.openvino.ops import OpenVINOOps
    from ovround.runtime.engines.openvino_devices import EXACT

    file = ConstantFile(folder / "probe.bin")
    for name, values in case.weights.items():
        write_weight(file, name, float_tensor(values), table=name != "norm.weight")
    ops = OpenVINOOps(file, [SelfAttention(1, case.attention).states()])
    model = ops.model(case.build(ops, ops.input_ids), "probe")
    file.close()
    ov.serialize(model, folder / "probe.xml", folder / "placeholders.bin")
    file.redirect(folder / "probe.xml")
    request = ov.Core().compile_model(folder / "probe.xml", "CPU", dict(EXACT)).create_infer_request()
    ids = np.arange(TOKENS)[None]
    given = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": ids,
        "beam_idx": np.zeros(1, np.int32),
    }
    return np.array(request.infer(given)["logits"][0], np.float64)


def onnx(folder: Path, case: Case) -> Rows:
    import onnxruntime as ort

    from ovround.exporters.onnx.external_data import DataFile
    from ovround.exporters.onnx.matmul_nbits import write_weight
    from ovround.exporters.onnx.ops import OnnxOps

    file, spec = DataFile(folder / "probe.onnx.data"), case.attention
    for name, values in case.weights.items():
        write_weight(file, name, float_tensor(values), table=False)
    width = case.expected.shape[1]
    config = DecoderConfig(hidden_size=width, num_hidden_layers=1, vocab_size=width, max_position_embeddings=TOKENS)
    ops = OnnxOps(file, {}, config, [SelfAttention(width, spec).states()])
    model = ops.model(case.build(ops, ops.input_ids), "probe")
    file.close()
    for values in () if case.attends else (model.graph.input, model.graph.output):
        for cache in [value for value in values if value.name.startswith(("past_", "present."))]:
            values.remove(cache)
    (folder / "probe.onnx").write_bytes(model.SerializeToString())
    session = ort.InferenceSession(str(folder / "probe.onnx"), providers=["CPUExecutionProvider"])
    ids = np.arange(TOKENS, dtype=np.int64)[None]
    empty = np.zeros((1, spec.num_key_value_heads, 0, spec.head_dim), np.float32)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    given |= {f"past_key_values.0.{part}": empty for part in ("key", "value")}
    outputs: Any = session.run(["logits"], {port.name: given[port.name] for port in session.get_inputs()})
    return np.array(outputs[0][0], np.float64)


def error(actual: Rows, expected: Rows) -> float:
    return float(np.mean((actual - expected) ** 2) / np.mean(expected**2))


@pytest.mark.parametrize("engine", [openvino, onnx])
def test_operators_are_those_of_float64(tmp_path: Path, engine: Callable[[Path, Case], Rows]) -> None:
    errors = {name: error(engine(tmp_path, case), case.expected) for name, case in CASES.items()}
    assert len(errors) == len(CASES) >= 60, "nothing was executed"
    assert all(np.isfinite(list(errors.values())))
    beyond = {name: value for name, value in errors.items() if value > CASES[name].bound}
    assert not beyond


@pytest.mark.parametrize("name", ["attention", "rope", "window of 8", "capped", "alibi", "sinks"])
def test_a_wrong_operator_is_beyond_the_bound(name: str) -> None:
    """The scale is wrong by one part in ten thousand, or the sliding window by one token."""
    case = CASES[name]
    spec = case.attention
    wrong = (
        replace(spec, sliding_window=spec.sliding_window + 1)
        if spec.sliding_window
        else replace(spec, scale=spec.scale * (1 + 1e-4))
    )
    assert error(attended(wrong, case.weights), case.expected) > 10 * case.bound
