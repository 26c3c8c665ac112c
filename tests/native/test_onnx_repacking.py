"""Ordinary ONNX folders by the native operator: MatMulNBits repacked when the model is loaded, the same numbers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from native_library import built
from random_model import relative_rms

from ovround.conversion.convert import convert
from ovround.errors import ArtifactError, EngineError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.engines import onnx_operator
from ovround.runtime.engines.native.library import KERNELS, UnusedKernelsWarning, is_faster
from ovround.runtime.engines.onnx_repacking import repack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test builds
EXACT, LEVELS = 2e-6, 0.05  # relative RMS of logits: float32 sums; activations rounded to 8 bits in other groups
IDS = np.random.default_rng(0).integers(5, 200, (2, 50))
CASES: dict[str, dict[str, Any]] = {
    "2 bits, zero points": {"bits": 2, "group_size": 64, "sym": False},
    "4 bits": {"bits": 4, "group_size": 64},
    "4 bits, zero points": {"bits": 4, "group_size": 32, "sym": False},
    "8 bits": {"bits": 8, "group_size": 64},
}


@pytest.fixture(scope="module")
def library() -> Path:
    return built() / onnx_operator.LIBRARY


@pytest.fixture(scope="module", params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ConvertOptions(formats=("onnx",), recipe="rtn", **CASES[request.param])
    return convert("demo", tmp_path_factory.mktemp("onnx") / "out", options).folders[0]


@pytest.fixture
def with_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_operator, "library_path", lambda: library)


@pytest.mark.usefixtures("with_library")
def test_logits_are_those_of_onnx_runtime(folder: Path) -> None:
    with LLM(folder, exact=True, kernel="engine", threads=1) as llm:
        assert llm.kernel == "engine"
        expected = llm.logits(IDS)
    for exact, most in ((True, EXACT), (False, LEVELS)):
        with LLM(folder, exact=exact, kernel="native", threads=2) as llm:
            assert llm.kernel == "native"
            assert relative_rms(llm.logits(IDS), expected) < most


def test_every_quantised_product_is_repacked(folder: Path, library: Path) -> None:
    path = folder / "model.onnx"
    before = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    done = repack(path.read_bytes(), path, library, exact=False)
    after = [node.op_type for node in onnx.load_model_from_string(done.model).graph.node]
    assert (after.count("QuantizedLinear"), len(done.initializers)) == (done.count, 3 * done.count)
    assert after.count("MatMulNBits") == before.count("MatMulNBits") - done.count <= 1  # a head tied to the embedding
    assert all(array.ctypes.data % 64 == 0 for array in done.initializers.values())


def test_who_computes(folder: Path, library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_operator, "library_path", lambda: library)
    faster = is_faster(library)
    for kernel, exact, used in (
        ("auto", False, faster),
        ("auto", True, False),
        ("native", True, True),
        ("engine", False, False),
    ):
        with LLM(folder, kernel=kernel, exact=exact) as llm:
            assert llm.kernel == ("native" if used else "engine"), (kernel, exact)
    monkeypatch.setattr(onnx_operator, "library_path", lambda: None)
    with LLM(folder) as llm:
        assert llm.kernel == "engine"
    with pytest.raises(EngineError, match="kernel is `native`, yet the native operator is not installed"):
        LLM(folder, kernel="native")
    damaged = tmp_path / onnx_operator.LIBRARY
    damaged.write_bytes(b"no library")
    shutil.copy(library.with_name(KERNELS), tmp_path)
    monkeypatch.setattr(onnx_operator, "library_path", lambda: damaged)
    monkeypatch.setattr(onnx_operator, "is_faster", lambda path: True)
    with pytest.raises(EngineError, match="the native operator cannot be used: "):
        LLM(folder, kernel="native")
    with pytest.warns(UnusedKernelsWarning, match="cannot be used: ") as told, LLM(folder) as llm:
        assert llm.kernel == "engine"
    assert len(told) == 1


@pytest.mark.usefixtures("with_library")
@pytest.mark.parametrize(("attribute", "value"), [("N", 1), ("block_size", 32), ("bits", 8)])
def test_a_damaged_weight_is_an_error(folder: Path, library: Path, tmp_path: Path, attribute: str, value: int) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    (stated,) = (entry for entry in node.attribute if entry.name == attribute)
    if stated.i == value:
        pytest.skip("that is its value")
    stated.i = value
    with pytest.raises(ArtifactError, match="is damaged"):
        repack(model.SerializeToString(), folder / "model.onnx", library, exact=False)


def test_a_cut_file_is_an_error(folder: Path, library: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.onnx", tmp_path)
    (tmp_path / "model.onnx.data").write_bytes((folder / "model.onnx.data").read_bytes()[:4096])
    with pytest.raises(ArtifactError, match=r"has \d+ of \d+ bytes"):
        repack((folder / "model.onnx").read_bytes(), tmp_path / "model.onnx", library, exact=False)
    with pytest.raises(ArtifactError, match="is damaged"):
        repack(b"no model", tmp_path / "model.onnx", library, exact=False)


def test_openvino_is_not_imported(folder: Path, library: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom ovround.runtime import LLM\nfrom ovround.runtime.engines import onnx_operator\n"
        f"onnx_operator.library_path = lambda: Path({str(library)!r})\n"
        f"LLM({str(folder)!r}, kernel='native').close()\nassert 'openvino' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
