"""Ordinary folders whose weights are repacked for the native operator when they are loaded: same integers, same answers."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from native_library import built
from random_model import CONFIGS, relative_rms, write_random_model

from ovround.conversion.convert import convert
from ovround.errors import EngineError, UsageError
from ovround.measure.evaluation import evaluate_model
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.engines.native import operator as native_operator
from ovround.runtime.engines.native.library import UnusedKernelsWarning, is_faster
from ovround.runtime.engines.native.repacking import repack
from ovround.tensors import native_layout as layout
from ovround.tensors.packing import pack_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test builds
CONFIG = {
    **CONFIGS["llama-0"], "hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 32,
    "mlp_bias": False,
}  # fmt: skip
IDS = np.array([[3, 9, 27, 5, 11, 2, 40, 7], [8, 1, 30, 12, 6, 60, 4, 19]])
EXACT, LEVELS = 2e-5, 0.1  # relative RMS of logits: float32, activations of 8 bits
DEMO = Path(__file__).resolve().parents[2] / "ovround" / "demo_model"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Path:
    path = built() / native_operator._LIBRARY
    monkeypatch.setattr(native_operator, "library_path", lambda: path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_random_model(folder, CONFIG)
    return folder


def converted(source: Path, folder: Path, **options: object) -> Path:
    defaults = {"bits": 4, "group_size": 32, "recipe": "rtn"}
    return convert(source, folder, ConvertOptions(**{**defaults, **options})).folders[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("columns", [32, 352])
@pytest.mark.parametrize("signed", [False, True])
def test_codes_lie_as_python_packs_them(bits: int, columns: int, signed: bool) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (37, columns)).astype(np.uint8)
    stored = codes ^ np.uint8(1 << (bits - 1)) if signed and bits > 2 else codes
    stream = np.ascontiguousarray(pack_rows(stored, bits) if bits < 8 else stored)
    expected = layout.pack_integers(codes, bits)
    packed = np.empty_like(expected)
    library = ctypes.CDLL(str(built() / "libovround_kernels_c.so"))
    library.ovround_pack_integers(
        ctypes.c_int64(bits), stream.ctypes.data_as(ctypes.c_void_p), int(signed and bits > 2), ctypes.c_int64(37),
        ctypes.c_int64(columns), packed.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    np.testing.assert_array_equal(packed, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"sym": True},
        {"sym": False},
        {"bits": 2, "sym": True},
        {"bits": 2, "sym": False, "group_size": 64},
        {"bits": 3, "sym": False, "group_size": 64},
        {"bits": 8, "group_size": -1},
        {"bits": 4, "group_size": -1, "lm_head_bits": 8, "embedding_bits": 8},
        {"bits": 3, "sym": False, "native_weights": True},
        {"bits": 2, "sym": True, "native_weights": True},
        {"bits": 4, "sym": False, "group_size": -1, "native_weights": True},
    ],
    ids=str,
)
@pytest.mark.usefixtures("library")
def test_answers_are_the_engines(source: Path, tmp_path: Path, options: dict[str, object]) -> None:
    wide = converted(source, tmp_path / "wide", **{**options, "native_weights": False})
    folder = converted(source, tmp_path / "out", **options) if options.get("native_weights") else wide
    with LLM(wide, exact=True, kernel="engine") as llm:
        expected = llm.logits(IDS)
    for exact, most in ((True, EXACT), (False, LEVELS)):
        with LLM(folder, exact=exact, kernel="native") as llm:
            assert relative_rms(llm.logits(IDS), expected) < most
    with LLM(folder, kernel="native", threads=2) as llm:  # prompt and steps: one kernel, in blocks of other sizes
        answer = llm.generate("Once", max_new_tokens=8, ignore_eos=True)
        assert answer.token_ids == tuple(p.token_id for p in llm.stream("Once", max_new_tokens=8, ignore_eos=True))


def test_products_of_one_input_are_one_node(source: Path, tmp_path: Path, library: Path) -> None:
    folder = converted(source, tmp_path / "out", lm_head_bits=8, embedding_bits=8)
    core = ov.Core()
    model = core.read_model(folder / "openvino_model.xml")
    layers = CONFIG["num_hidden_layers"]
    assert repack(model, library, exact=False) == 7 * layers + 1
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == "QuantizedLinear"]
    assert sorted(node.get_output_size() for node in nodes) == sorted([1] * (3 * layers + 1) + [3] * layers)
    assert sum(node.get_attributes()["gated"] for node in nodes) == layers
    compiled = core.compile_model(model, "CPU").get_runtime_model().get_ordered_ops()
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled]
    assert kinds.count("Reference") == len(nodes)
    assert not {"FullyConnected", "Swish"} & set(kinds)


def test_one_wrong_code_is_noticed(source: Path, tmp_path: Path, library: Path) -> None:
    folder = converted(source, tmp_path / "out")
    with LLM(folder, exact=True, kernel="engine") as llm:
        expected = llm.logits(IDS)
    graph = (folder / "openvino_model.xml").read_text()
    offset = int(graph[graph.index('name="model.layers.0.mlp.up_proj.weight"') :].split('offset="')[1].split('"')[0])
    with (folder / "openvino_model.bin").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))
    with LLM(folder, exact=True, kernel="native", verify=False) as llm:
        assert relative_rms(llm.logits(IDS), expected) > 2 * EXACT


@pytest.mark.usefixtures("library")
def test_the_built_in_model_says_the_same(tmp_path: Path) -> None:
    folder = converted(DEMO, tmp_path / "out", group_size=64)
    texts = []
    for kernel in ("engine", "native"):
        with LLM(folder, exact=True, kernel=kernel) as llm:
            texts.append(llm.generate("Once upon a time", max_new_tokens=24).text)
    assert texts[0] == texts[1]


def test_who_computes(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(kernel: str, device: str = "CPU", exact: bool = False, **properties: str) -> Path | None:
        return native_operator.choose_library(kernel, device, exact=exact, properties=properties)

    assert chosen("auto") == (library if is_faster(library) else None)
    monkeypatch.setattr(native_operator, "is_faster", lambda _: True)
    assert chosen("auto") == chosen("native") == chosen("native", exact=True) == library
    assert chosen("engine") is chosen("auto", exact=True) is chosen("auto", "GPU") is None
    assert chosen("auto", DYNAMIC_QUANTIZATION_GROUP_SIZE="0") is chosen("auto", CACHE_DIR="cache") is None
    monkeypatch.setattr(native_operator, "is_faster", lambda _: False)
    assert chosen("auto") is None
    assert chosen("native") == library
    with pytest.raises(EngineError, match="GPU cannot run the native operator"):
        chosen("native", "GPU")


def test_without_the_library(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = converted(source, tmp_path / "out")
    monkeypatch.setattr(native_operator, "library_path", lambda: None)
    with pytest.raises(EngineError, match="kernel is `native`, yet the native operator is not installed"):
        LLM(folder, kernel="native")
    with pytest.raises(UsageError, match="kernel is `fast`; allowed: auto, native, engine"):
        LLM(folder, kernel="fast")
    with pytest.raises(EngineError, match="kernel is `native`, yet the native operator is not installed"):
        evaluate_model(str(folder), [DEMO / "heldout.txt"], context=16, exact=False, kernel="native")
    with pytest.raises(UsageError, match="kernel is `fast`; allowed: auto, native, engine"):
        evaluate_model("demo", [DEMO / "heldout.txt"], context=16, kernel="fast")
    damaged = tmp_path / "library.so"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(native_operator, "library_path", lambda: damaged)
    with pytest.raises(EngineError, match="cannot be loaded by OpenVINO") as caught:
        LLM(folder, kernel="native")
    assert "--kernel engine" in str(caught.value.hint)
    with pytest.warns(UnusedKernelsWarning, match="cannot be loaded") as told, LLM(folder) as llm:
        assert llm.kernel == "engine"
    assert len(told) == 1
