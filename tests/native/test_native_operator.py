"""Folders with weights for the native operator: exact storage, computation by the library, expansion without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from native_library import built, random_codebooks
from numpy.typing import NDArray
from random_model import CONFIGS, logits_of, relative_rms, write_random_model
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import ovround
from ovround.artifact.manifest import read_manifest
from ovround.checkpoint import open_source
from ovround.cli.app import app
from ovround.conversion.convert import convert
from ovround.errors import ArtifactError, CheckpointError, EngineError, UsageError
from ovround.exporters.openvino.reading import Reader
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.engines.native import operator as native_operator
from ovround.runtime.engines.native.openvino_versions import open_operator
from ovround.runtime.engines.native.operator import ExpandedWeightsWarning
from ovround.tensors.codebook_tensor import CodebookTensor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test builds
CONFIG = CONFIGS["llama-0"]
IDS = np.array([[3, 9, 27, 5, 11, 2, 40, 7], [8, 1, 30, 12, 6, 60, 4, 19]])
EXACT, FLOAT16, TABLES = (
    2e-5,
    2e-3,
    0.1,
)  # relative RMS of logits: float32, weights rounded to float16, tables of 8 bits


def write_aqlm(
    folder: Path, config: dict[str, Any], vector: tuple[int, int] = (1, 8), bits: int = 8, books: int = 2
) -> Any:
    """Write a random checkpoint in AQLM's layout; returns the transformers model with the de-quantised weights."""
    model = write_random_model(folder, config)
    tensors = load_file(folder / "model.safetensors")
    for number, name in enumerate(sorted(tensors)):
        if ".layers." not in name or not name.endswith("_proj.weight"):
            continue
        weight = random_codebooks(tensors.pop(name).shape, books, 1 << bits, vector, seed=number)
        at = name.removesuffix(".weight")
        tensors |= {
            f"{at}.codes": weight.codes.astype(np.int8 if bits <= 8 else np.int16), f"{at}.codebooks": weight.codebooks,
            f"{at}.scales": weight.scales.reshape(-1, 1, 1, 1),
        }  # fmt: skip
        with torch.no_grad():
            model.get_parameter(name).copy_(torch.from_numpy(weight.dequantize()))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    quantization = {
        "quant_method": "aqlm", "out_group_size": vector[0], "in_group_size": vector[1], "num_codebooks": books,
        "nbits_per_codebook": bits, "linear_weights_not_to_quantize": ["model.embed_tokens.weight", "lm_head.weight"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    folder = tmp_path_factory.mktemp("aqlm") / "source"
    return folder, logits_of(write_aqlm(folder, CONFIG), IDS)


@pytest.fixture(scope="module")
def folder(source: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(source[0], tmp_path_factory.mktemp("aqlm") / "out").folders[0]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Path:
    path = built() / native_operator._LIBRARY
    monkeypatch.setattr(native_operator, "library_path", lambda: path)
    return path


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_operator, "library_path", lambda: None)


def test_codes_are_kept_and_the_manifest_names_them(source: tuple[Path, Any], folder: Path) -> None:
    weights = {weight["name"]: weight for weight in json.loads((folder / "ovround.json").read_text())["weights"]}
    name = "model.layers.1.mlp.down_proj.weight"
    stored = open_source(source[0]).read(name, tuple(weights[name]["shape"]))  # type: ignore[call-arg]
    assert isinstance(stored, CodebookTensor)
    assert (weights[name]["sha256"], weights[name]["codebooks"]) == (stored.digest(), "2x8")
    assert weights[name]["size_bytes"] == stored.size_bytes


@pytest.mark.usefixtures("library")
def test_library_computes_what_the_codes_stand_for(source: tuple[Path, Any], folder: Path) -> None:
    for exact, most in ((True, EXACT), (False, TABLES)):
        with LLM(folder, exact=exact, kernel="native") as llm:
            assert relative_rms(llm.logits(IDS), source[1]) < most
    with LLM(folder, exact=True, threads=2) as llm:  # prompt and steps go through different kernels
        assert llm.generate("Once", max_new_tokens=8, ignore_eos=True).token_ids == tuple(
            piece.token_id for piece in llm.stream("Once", max_new_tokens=8, ignore_eos=True)
        )


@pytest.mark.usefixtures("no_library")
def test_without_the_library_weights_are_expanded_or_refused(source: tuple[Path, Any], folder: Path) -> None:
    with pytest.warns(ExpandedWeightsWarning, match=r"14 weights were expanded: .* MB in place of"):
        llm = LLM(folder, exact=True)
    with llm:
        assert relative_rms(llm.logits(IDS), source[1]) < FLOAT16
    with pytest.raises(EngineError, match="native operator, which is not installed"):
        LLM(folder, kernel="native")
    result = CliRunner().invoke(app, ["run", str(folder), "Once", "--kernel", "native"])
    assert isinstance(result.exception, EngineError)
    with pytest.raises(UsageError, match="kernel is `ignore`; allowed: auto, native, engine"):
        LLM(folder, kernel="ignore")


@pytest.mark.usefixtures("no_library")
def test_a_code_beyond_its_book_is_noticed(tmp_path: Path) -> None:
    write_aqlm(tmp_path / "source", CONFIG, bits=5)
    folder = convert(tmp_path / "source", tmp_path / "out").folders[0]
    graph = (folder / "openvino_model.xml").read_text()
    layer = graph[graph.index('name="model.layers.0.mlp.up_proj.weight"') :]
    offset = int(layer.split('offset="')[1].split('"')[0])
    with (folder / "openvino_model.bin").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    with pytest.raises(ArtifactError, match=r"up_proj.* is damaged: code 255 is beyond a codebook of 32"):
        LLM(folder, verify=False)


@pytest.mark.parametrize(("vector", "bits", "books"), [((1, 8), 12, 1), ((2, 4), 3, 3)])
@pytest.mark.usefixtures("library")
def test_other_codebooks(tmp_path: Path, vector: tuple[int, int], bits: int, books: int) -> None:
    expected = logits_of(write_aqlm(tmp_path / "source", CONFIG, vector, bits, books), IDS)
    with LLM(convert(tmp_path / "source", tmp_path / "out").folders[0], exact=True) as llm:
        assert relative_rms(llm.logits(IDS), expected) < EXACT


@pytest.mark.usefixtures("library")
def test_joined_projections_of_codes_are_taken_apart(tmp_path: Path) -> None:
    expected = logits_of(write_aqlm(tmp_path / "source", CONFIGS["phi3-0"]), IDS)
    with LLM(convert(tmp_path / "source", tmp_path / "out").folders[0], exact=True) as llm:
        assert relative_rms(llm.logits(IDS), expected) < EXACT


def test_what_cannot_hold_codebooks_refuses_them(source: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"made of codebooks \(aqlm\), which gptq cannot hold") as caught:
        convert(source[0], tmp_path / "out", ConvertOptions(formats=("gptq",)))
    assert "--format openvino or onnx" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"bits is 3, yet .* is made of codebooks"):
        convert(source[0], tmp_path / "out", ConvertOptions(bits=3))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sym", [True, False])
def test_three_bits_in_three_bits(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch, sym: bool) -> None:
    write_random_model(tmp_path / "source", CONFIG)
    options = {"bits": 3, "group_size": 32, "recipe": "rtn", "sym": sym}
    wide = convert(tmp_path / "source", tmp_path / "wide", ConvertOptions(**options))  # type: ignore[arg-type]
    narrow = convert(tmp_path / "source", tmp_path / "narrow", ConvertOptions(**options, native_weights=True))  # type: ignore[arg-type]
    assert [record.sha256 for record in wide.manifests[0].weights] == [
        record.sha256 for record in narrow.manifests[0].weights
    ]
    with LLM(wide.folders[0], exact=True) as llm:
        expected = llm.logits(IDS)
    for exact, most in ((True, EXACT), (False, TABLES)):
        with LLM(narrow.folders[0], exact=exact) as llm:
            assert relative_rms(llm.logits(IDS), expected) < most
    monkeypatch.setattr(native_operator, "library_path", lambda: None)
    with pytest.warns(ExpandedWeightsWarning), LLM(narrow.folders[0], exact=True) as llm:
        np.testing.assert_array_equal(llm.logits(IDS), expected)  # the same integers, in the same graph


@pytest.mark.parametrize("made", ["codebooks", "three bits"])
def test_a_folder_is_read_by_its_manifest(folder: Path, tmp_path: Path, made: str) -> None:
    if made == "three bits":
        write_random_model(tmp_path / "source", CONFIG)
        options = ConvertOptions(bits=3, group_size=32, recipe="rtn", native_weights=True)
        folder = convert(tmp_path / "source", tmp_path / "out", options).folders[0]
    records = {record.name: record for record in read_manifest(folder).weights}
    reader = Reader(folder, records)
    assert {name: reader.read(name).digest() for name in records} == {n: record.sha256 for n, record in records.items()}


def test_three_bits_that_do_not_fit_stay_in_four(tmp_path: Path) -> None:
    write_random_model(tmp_path / "source", CONFIG)
    options = ConvertOptions(bits=3, group_size=16, recipe="rtn", native_weights=True)
    folder = convert(tmp_path / "source", tmp_path / "out", options).folders[0]
    assert not native_operator.needs_operator(folder / "openvino_model.xml")


def test_library_is_found_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovround, "__path__", [str(tmp_path / "other"), str(tmp_path)])
    assert native_operator.library_path() is None
    path = tmp_path / "native" / "lib" / native_operator._LIBRARY
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no library")
    assert native_operator.library_path() == path


def test_library_that_openvino_cannot_load(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "library.so"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(native_operator, "library_path", lambda: damaged)
    with pytest.raises(EngineError, match=r"cannot be loaded by OpenVINO"):
        LLM(folder, kernel="native")
    with pytest.warns(ExpandedWeightsWarning, match="the native operator cannot be loaded") as told, LLM(folder) as llm:
        assert llm.kernel == "engine"
    assert len(told) == 1


@pytest.mark.usefixtures("library")
def test_nothing_is_expanded_in_the_compiled_graph(folder: Path, library: Path) -> None:
    open_operator(library)
    core = ov.Core()
    core.add_extension(str(library))
    compiled = core.compile_model(core.read_model(folder / "openvino_model.xml"), "CPU")
    nodes = compiled.get_runtime_model().get_ordered_ops()
    codes = [node for node in nodes if node.get_friendly_name().endswith("_proj.weight")]
    assert len(codes) == 14
    assert {node.output(0).get_element_type().get_type_name() for node in codes} == {"u8"}


def test_genai_runs_the_folder_with_the_library(folder: Path, library: Path) -> None:
    genai = pytest.importorskip("openvino_genai")
    pipeline = genai.LLMPipeline(folder, "CPU", extensions=[str(library)])
    assert pipeline.generate("Once", max_new_tokens=4, ignore_eos=True)
