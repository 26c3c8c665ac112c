"""Affine weights in the operator of both engines: against numpy, joined when a model is loaded, expanded, and damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from gguf_blocks import random_affine
from native_library import built
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from openvino import opset13 as opset
from test_onnx_operator import inputs, session

from ovround.checkpoint.gguf.affine_blocks import AFFINE_KINDS
from ovround.errors import ArtifactError
from ovround.exporters.native_parts import parts_of
from ovround.runtime.engines import onnx_operator
from ovround.runtime.engines.native import operator as native_operator
from ovround.runtime.engines.native.openvino_versions import open_operator
from ovround.runtime.engines.native.repacking import repack
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.native_layout import AFFINE
from ovround.tensors.quantized_linear_node import QuantizedLinear

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds
# relative to the largest output: float32 sums; 8-bit activations; weights rounded to float16
SUMS, LEVELS, FLOAT16 = 2e-6, 0.03, 1e-3
ROWS = (1, 3, 16, 50)
SHAPE = (70, 512)
Changes = dict[str, Any]


@pytest.fixture(scope="module")
def library() -> Path:
    path = built() / native_operator._LIBRARY
    open_operator(path)
    return path


@pytest.fixture(scope="module")
def onnx_library() -> Path:
    return built() / onnx_operator.LIBRARY


def product(weight: AffineTensor, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x.astype(np.float64) @ weight.dequantize().astype(np.float64).T


def attributes_of(weight: AffineTensor) -> Changes:
    return {"weights": AFFINE[weight.bits], "outputs": weight.shape[0], "inputs": weight.shape[1]}


def parts(weight: AffineTensor, kept: dict[int, int]) -> list[np.ndarray[Any, Any]]:
    """The operator's constants; of part i only `kept[i]` along the first axis."""
    return [part[: kept.get(index, len(part))] for index, (_, part) in enumerate(parts_of("w", weight))]


def openvino_model(path: Path, tensors: list[AffineTensor], /, *, gated: bool = False, **changes: Any) -> Path:
    """A model of products of one input, written as a folder's graph is; `gated` multiplies the first one's silu by the second."""
    x = opset.parameter([-1, tensors[0].shape[1]], ov.Type.f32, name="x")
    kept, products = changes.pop("kept", {}), []
    for number, weight in enumerate(tensors):
        constants = [opset.constant(part).output(0) for part in parts(weight, kept)]
        node = QuantizedLinear([x.output(0), *constants], **{**attributes_of(weight), **changes})
        node.set_friendly_name(f"product{number}")
        products.append(node)
    if gated:
        products = [opset.multiply(opset.swish(products[0]), products[1])]
    model = ov.Model([opset.result(node) for node in products], [x], "affine")
    ov.serialize(model, path / "openvino_model.xml", path / "openvino_model.bin")
    return path / "openvino_model.xml"


def answers(library: Path, model: Any, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    core = ov.Core()
    core.add_extension(str(library))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(x).values())


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_openvino_products(library: Path, tmp_path: Path, kind: str, joined: bool) -> None:
    weights = [random_affine(kind, (70, 512), seed=0), random_affine(kind, (16, 512), seed=1)]
    path = openvino_model(tmp_path, weights)
    for exact, most in ((True, SUMS), (False, LEVELS)):
        core = ov.Core()
        core.add_extension(str(library))
        model = core.read_model(path)
        if joined:
            assert repack(model, library, exact=exact) == 2
            assert [node.get_output_size() for node in native_operator._nodes(model)] == [2]
        for node in native_operator._nodes(model):
            node.set_attribute("exact", exact)
        for rows in ROWS:
            x = inputs(rows, 512)
            for weight, answer in zip(weights, answers(library, model, x), strict=True):
                expected = product(weight, x)
                assert np.abs(answer - expected).max() < most * np.abs(expected).max(), rows


def test_gates_are_joined(library: Path, tmp_path: Path) -> None:
    weights = [random_affine("Q4_K", SHAPE, seed=seed) for seed in (0, 1)]
    path = openvino_model(tmp_path, weights, gated=True)
    core = ov.Core()
    core.add_extension(str(library))
    model = core.read_model(path)
    assert repack(model, library, exact=True) == 2
    assert [node.get_type_name() for node in model.get_ordered_ops()].count("Swish") == 0
    x = inputs(3, 512) / 10
    gate, up = (product(weight, x) for weight in weights)
    expected = gate / (1 + np.exp(-gate)) * up
    assert np.abs(answers(library, model, x)[0] - expected).max() < 2 * SUMS * np.abs(expected).max()


@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_without_the_library_weights_are_expanded(tmp_path: Path, kind: str) -> None:
    weights = [random_affine(kind, (70, 512)), random_affine(kind, (2100, 256), seed=1)]
    for weight in weights:
        core = ov.Core()
        core.add_extension(QuantizedLinear)
        model = core.read_model(openvino_model(tmp_path, [weight]))
        count, _, after = native_operator.expand(model, tmp_path / "openvino_model.xml")
        assert (count, after) == (1, 2 * weight.shape[0] * weight.shape[1])
        x = inputs(3, weight.shape[1])
        answer = next(iter(ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x).values()))
        assert np.abs(answer - product(weight, x)).max() < FLOAT16 * np.abs(answer).max()


@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_onnx_products(onnx_library: Path, tmp_path: Path, kind: str) -> None:
    weight = random_affine(kind, SHAPE)
    for exact, most in ((True, SUMS), (False, LEVELS)):
        opened = session(onnx_library, onnx_model(weight, exact=int(exact)))
        for rows in ROWS:
            x = inputs(rows, 512)
            expected = product(weight, x)
            assert np.abs(opened.run(None, {"x": x})[0] - expected).max() < most * np.abs(expected).max(), rows


def onnx_model(weight: AffineTensor, /, **changes: Any) -> bytes:
    kept = changes.pop("kept", {})
    attributes = {**attributes_of(weight), "exact": 0, **changes}
    names = ["codes", "scales", "last"]
    tensors = [onnx.numpy_helper.from_array(part, name) for name, part in zip(names, parts(weight, kept), strict=True)]
    node = onnx.helper.make_node("QuantizedLinear", ["x", *names], ["y"], "node", domain="ovround")
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("ovround", 1)]
    graph = onnx.helper.make_graph([node], "graph", ports[:1], ports[1:], tensors)
    serialized: bytes = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    return serialized


DAMAGES: dict[str, tuple[str, Changes]] = {
    "more outputs": ("Q4_K", {"outputs": 90}),
    "more inputs": ("Q4_K", {"inputs": 1024}),
    "inputs that are no whole runs": ("Q5_0", {"inputs": 528}),
    "huge": ("Q4_K", {"outputs": 1 << 60, "inputs": 1 << 60}),
    "other bits": ("Q4_K", {"weights": "affine5"}),
    "other kind": ("Q4_K", {"weights": "int4"}),
    "unknown": ("Q4_K", {"weights": "affine8"}),
    "fewer codes": ("Q4_K", {"kept": {0: 4}}),
    "fewer scales": ("Q4_K", {"kept": {1: 4}}),
    "fewer minimums": ("Q4_K", {"kept": {2: 4}}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_weight_of_another_size_is_refused(library: Path, onnx_library: Path, tmp_path: Path, damage: str) -> None:
    kind, changes = DAMAGES[damage]
    weight = random_affine(kind, SHAPE)
    path = openvino_model(tmp_path, [weight], **changes)
    core = ov.Core()
    core.add_extension(str(library))
    with pytest.raises(RuntimeError, match=r"are not those of|sizes must be|this library has"):
        core.read_model(path)
    with pytest.raises(RuntimeException, match=r"are not those of|this library has"):
        session(onnx_library, onnx_model(weight, **changes))
    if "outputs" in changes or damage == "other kind":
        return
    plain = ov.Core()
    plain.add_extension(QuantizedLinear)
    with pytest.raises(ArtifactError, match="is damaged"):
        native_operator.expand(plain.read_model(path), path)
