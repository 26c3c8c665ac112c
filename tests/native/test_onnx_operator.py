"""`QuantizedLinear` in ONNX Runtime: the operator against numpy, and folders that need it, with the library and expanded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from native_library import built, random_codebooks, random_integers
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException
from random_model import CONFIGS, logits_of, relative_rms, write_random_model
from test_native_operator import EXACT, FLOAT16, IDS, TABLES, write_aqlm

from ovround.artifact.manifest import read_manifest
from ovround.conversion.convert import convert
from ovround.errors import ArtifactError, EngineError, UsageError, VerifyError
from ovround.exporters.native_parts import parts_of
from ovround.exporters.onnx.reading import Reader
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.engines import onnx_operator
from ovround.runtime.engines.native import operator as native_operator
from ovround.runtime.engines.native.library import ExpandedWeightsWarning
from ovround.runtime.engines.onnx_expansion import expand
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.native_layout import CODEBOOK, INTEGERS
from ovround.tensors.qtensor import QTensor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test builds
Weight = QTensor | CodebookTensor
# relative to the largest output: float32 sums; 8-bit tables and 8-bit activations (see test_native_kernels.py)
SUMS, LEVELS = 2e-6, 0.03
ROWS = (1, 2, 7, 16, 33, 64)
WEIGHTS: dict[str, Weight] = {
    "2x8": random_codebooks((96, 128)),
    "4x6 of 5": random_codebooks((130, 155), 4, 40, (1, 5)),
    "2x12 of 3 by 2": random_codebooks((63, 62), 2, 4096, (3, 2)),
    "2 bits": random_integers(2, (96, 128), 32, symmetric=True),
    "3 bits": random_integers(3, (96, 128), 32, symmetric=True),
    "3 bits, zero points": random_integers(3, (70, 512), 128, symmetric=False),
    "3 bits, whole rows": random_integers(3, (33, 172), -1, symmetric=False),
    "4 bits": random_integers(4, (50, 192), 64, symmetric=False),
    "8 bits": random_integers(8, (16, 768), 256, symmetric=True),
}


@pytest.fixture(scope="module")
def library() -> Path:
    return built() / onnx_operator.LIBRARY


@pytest.fixture
def with_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_operator, "library_path", lambda: library)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_operator, "library_path", lambda: None)


def model_of(weight: Weight, **changes: Any) -> bytes:
    """A model of one node with `weight`; `changes` replace attributes, and `parts` has the bytes to keep of each part."""
    weights = INTEGERS[weight.bits] if isinstance(weight, QTensor) else CODEBOOK
    kept = changes.pop("parts", [None, None, None])
    attributes = {"weights": weights, "outputs": weight.shape[0], "inputs": weight.shape[1], "exact": 0, **changes}
    parts = dict(parts_of("w", weight))
    tensors = [
        onnx.numpy_helper.from_array(part if size is None else part.reshape(-1)[:size], name)
        for (name, part), size in zip(parts.items(), kept, strict=True)
    ]
    node = onnx.helper.make_node("QuantizedLinear", ["x", *parts], ["y"], "node", domain="ovround")
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("ovround", 1)]
    graph = onnx.helper.make_graph([node], "graph", ports[:1], ports[1:], tensors)
    serialized: bytes = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    return serialized


def session(library: Path, model: bytes, threads: int = 1) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def inputs(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("exact", [True, False])
def test_products_are_those_of_numpy(library: Path, name: str, exact: bool) -> None:
    weight = WEIGHTS[name]
    single, threaded = (session(library, model_of(weight, exact=int(exact)), threads) for threads in (1, 3))
    for rows in ROWS:
        x = inputs(rows, weight.shape[1])
        expected = x.astype(np.float64) @ weight.dequantize().astype(np.float64).T
        answer = single.run(None, {"x": x})[0]
        assert np.abs(answer - expected).max() < (SUMS if exact else LEVELS) * np.abs(expected).max(), rows
        np.testing.assert_array_equal(threaded.run(None, {"x": x[None]})[0][0], answer)
    assert single.run(None, {"x": np.zeros((2, 0, weight.shape[1]), np.float32)})[0].shape == (2, 0, weight.shape[0])


DAMAGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "more outputs": ("3 bits", {"outputs": 112}, r"`node`: int3 .* are not those of \[112, 128\]"),
    "more inputs": ("2x8", {"inputs": 256}, r"`node`: codebook .* are not those of \[96, 256\]"),
    "no outputs": ("2x8", {"outputs": 0}, r"are not those of \[0, 128\]"),
    "huge": ("3 bits", {"outputs": 1 << 60, "inputs": 1 << 60}, "are not those of"),
    "other bits": ("3 bits", {"weights": "int4"}, "are not those of"),
    "other kind": ("3 bits", {"weights": "codebook"}, "are not those of"),
    "unknown": ("3 bits", {"weights": "int5"}, "weights are `int5`; this library has codebook, int2, int3"),
    "fewer codes": ("3 bits", {"parts": [64, None, None]}, "are not those of"),
    "fewer scales": ("3 bits, zero points", {"parts": [None, 32, None]}, "are not those of"),
    "fewer zero points": ("3 bits, zero points", {"parts": [None, None, 16]}, "are not those of"),
    "flat codebooks": ("2x8", {"parts": [None, 8192, None]}, "are not those of"),
    "one scale": ("2x8", {"parts": [None, None, 2]}, "are not those of"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_weight_of_another_size_is_refused(library: Path, damage: str) -> None:
    name, changes, message = DAMAGES[damage]
    with pytest.raises(RuntimeException, match=message):
        session(library, model_of(WEIGHTS[name], **changes))


def test_what_is_no_input_of_the_node_is_refused(library: Path) -> None:
    made = session(library, model_of(WEIGHTS["3 bits"]))
    for shape in ((2, 96), ()):
        with pytest.raises(InvalidArgument, match=r"x is \[.*\]; 128 inputs are needed"):
            made.run(None, {"x": np.zeros(shape, np.float32)})
    model = onnx.ModelProto.FromString(model_of(WEIGHTS["3 bits"]))
    codes = model.graph.initializer.pop(0)
    model.graph.input.append(onnx.helper.make_tensor_value_info(codes.name, codes.data_type, codes.dims))
    with pytest.raises(RuntimeException, match="input 1 must be a constant"):
        session(library, model.SerializeToString())


@pytest.fixture(scope="module")
def codebooks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    made = tmp_path_factory.mktemp("aqlm")
    expected = logits_of(write_aqlm(made / "source", CONFIGS["llama-0"]), IDS)
    return convert(made / "source", made / "out", ConvertOptions(formats=("onnx",))).folders[0], expected


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built-in model in 3 bits, for both engines."""
    options = ConvertOptions(formats=("openvino", "onnx"), bits=3, group_size=64, recipe="rtn", native_weights=True)
    folders = convert("demo", tmp_path_factory.mktemp("demo") / "out", options).folders
    return dict(zip(options.formats, folders, strict=True))


@pytest.mark.usefixtures("with_library")
def test_the_library_computes_what_the_codes_stand_for(codebooks: tuple[Path, Any]) -> None:
    for exact, most in ((True, EXACT), (False, TABLES)):
        with LLM(codebooks[0], exact=exact, kernel="native") as llm:
            assert relative_rms(llm.logits(IDS), codebooks[1]) < most


@pytest.mark.usefixtures("no_library")
def test_without_the_library_codebooks_are_expanded_or_refused(codebooks: tuple[Path, Any]) -> None:
    with pytest.warns(ExpandedWeightsWarning, match=r"14 weights were expanded: .* MB in place of"):
        llm = LLM(codebooks[0], exact=True)
    with llm:
        assert relative_rms(llm.logits(IDS), codebooks[1]) < FLOAT16
    with pytest.raises(EngineError, match="native operator, which is not installed"):
        LLM(codebooks[0], kernel="native")


def tokens(folder: Path) -> tuple[int, ...]:
    with LLM(folder, exact=True, threads=1) as llm:
        return llm.generate("Return the number", max_new_tokens=24, ignore_eos=True).token_ids


@pytest.mark.filterwarnings("ignore::ovround.runtime.engines.native.library.ExpandedWeightsWarning")
@pytest.mark.parametrize("how", ["by the libraries", "expanded"])
def test_three_bits_give_the_tokens_of_openvino(
    demo: dict[str, Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    library = request.getfixturevalue("library") if how == "by the libraries" else None
    openvinos = library and library.parent / native_operator._LIBRARY
    monkeypatch.setattr(onnx_operator, "library_path", lambda: library)
    monkeypatch.setattr(native_operator, "library_path", lambda: openvinos)
    assert tokens(demo["onnx"]) == tokens(demo["openvino"])


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize(("bits", "group_size", "sym"), [(3, 32, True), (3, -1, False), (2, -1, True), (4, 32, False)])
def test_integers_are_expanded_to_what_convert_writes_without_native_weights(
    tmp_path: Path, bits: int, group_size: int, sym: bool
) -> None:
    write_random_model(tmp_path / "source", CONFIGS["llama-0"])
    options = {"formats": ("onnx",), "bits": bits, "group_size": group_size, "recipe": "rtn", "sym": sym}
    wide = convert(tmp_path / "source", tmp_path / "wide", ConvertOptions(**options))  # type: ignore[arg-type]
    narrow = convert(tmp_path / "source", tmp_path / "narrow", ConvertOptions(**options, native_weights=True))  # type: ignore[arg-type]
    assert [record.sha256 for record in wide.manifests[0].weights] == [
        record.sha256 for record in narrow.manifests[0].weights
    ]
    with LLM(wide.folders[0], exact=True) as llm:
        expected = llm.logits(IDS)
    with pytest.warns(ExpandedWeightsWarning), LLM(narrow.folders[0], exact=True) as llm:
        assert relative_rms(llm.logits(IDS), expected) < EXACT


def test_what_was_expanded_is_not_loaded_too(demo: dict[str, Path]) -> None:
    path = demo["onnx"] / "model.onnx"
    expanded = expand(path.read_bytes(), path, exact=False)
    model = onnx.ModelProto.FromString(expanded.model)
    names = {tensor.name for tensor in model.graph.initializer}
    assert names <= {name for node in model.graph.node for name in node.input}
    assert expanded.initializers.keys() <= names
    assert all(opset.domain != "ovround" for opset in model.opset_import)


def test_a_folder_is_read_by_its_manifest(codebooks: tuple[Path, Any], demo: dict[str, Path]) -> None:
    for folder in (codebooks[0], demo["onnx"]):
        records = {record.name: record for record in read_manifest(folder).weights}
        reader = Reader(folder, records)
        assert {name: reader.read(name).digest() for name in records} == {
            n: record.sha256 for n, record in records.items()
        }


def damaged(folder: Path, to: Path, **changes: int) -> Path:
    """A copy of `folder` without its manifest; `changes` are attributes of its first native node, or the `length` of its codes."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("ovround.json"))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "QuantizedLinear")
    length = changes.pop("length", None)
    for attribute in node.attribute:
        attribute.i = changes.get(attribute.name, attribute.i)
    for tensor in model.graph.initializer:
        if tensor.name == node.input[1] and length is not None:
            next(entry for entry in tensor.external_data if entry.key == "length").value = str(length)
    (to / "model.onnx").write_bytes(model.SerializeToString())
    return to


@pytest.mark.parametrize("changes", [{"outputs": 1 << 40}, {"inputs": 32}, {"outputs": -1}, {"length": 5}])
@pytest.mark.parametrize("made", ["codebooks", "three bits"])
def test_a_damaged_folder_is_an_error(
    codebooks: tuple[Path, Any], demo: dict[str, Path], tmp_path: Path, made: str, changes: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    undamaged = codebooks[0] if made == "codebooks" else demo["onnx"]
    folder = damaged(undamaged, tmp_path / "copy", **changes)
    monkeypatch.setattr(onnx_operator, "library_path", lambda: None)
    with pytest.raises(ArtifactError, match=r"q_proj` is damaged: "):
        LLM(folder)
    if "length" in changes:
        with pytest.raises(VerifyError, match="5 bytes"):
            Reader(folder, {record.name: record for record in read_manifest(undamaged).weights})


@pytest.mark.usefixtures("with_library")
@pytest.mark.parametrize("changes", [{"outputs": 1 << 40}, {"inputs": 32}, {"length": 5}])
def test_the_library_refuses_a_damaged_folder(
    codebooks: tuple[Path, Any], tmp_path: Path, changes: dict[str, int]
) -> None:
    with pytest.raises(ArtifactError, match="cannot be read by ONNX Runtime"):
        LLM(damaged(codebooks[0], tmp_path / "copy", **changes))


def test_a_library_that_cannot_be_loaded(
    codebooks: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library.so").write_bytes(b"no library")
    monkeypatch.setattr(onnx_operator, "library_path", lambda: tmp_path / "library.so")
    with pytest.raises(EngineError, match="cannot be loaded by ONNX Runtime"):
        LLM(codebooks[0], kernel="native")
    with pytest.warns(ExpandedWeightsWarning, match="cannot be loaded by ONNX Runtime"), LLM(codebooks[0]) as llm:
        assert llm.kernel == "engine"


def test_checkpoint_formats_refuse_native_weights() -> None:
    with pytest.raises(UsageError, match="native-weights is a layout of openvino and onnx, yet format is gptq"):
        ConvertOptions(formats=("onnx", "gptq"), native_weights=True)
