"""The C++ runtime runs folders with weights for the native operator, with its library or with expanded weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cpp_build import replay, run
from native_library import built as built_native
from random_model import CONFIGS
from test_affine_folders import write_gguf
from test_native_operator import write_aqlm

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.engines.native import operator as native_operator
from ovround.runtime.engines.native.library import KERNELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


@pytest.fixture(scope="module")
def library() -> Path:
    return built_native() / native_operator._LIBRARY


@pytest.fixture(scope="module", params=["3 bits", "codebooks", "K-quants"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("native")
    if request.param == "3 bits":
        options = ConvertOptions(formats=("openvino",), bits=3, group_size=64, recipe="rtn", native_weights=True)
        return convert("demo", made / "out", options).folders[0]
    if request.param == "K-quants":
        write_gguf(made / "source", tied=True)
        return convert(made / "source" / "model.gguf", made / "out", ConvertOptions(native_weights=True)).folders[0]
    write_aqlm(made / "source", CONFIGS["llama-0"])
    return convert(made / "source", made / "out").folders[0]


def tokens_are_those_of_python(programs: Path, folder: Path, load: dict[str, str], draw: float) -> None:
    options = [{"max_new_tokens": 24}, {"max_new_tokens": 24, "temperature": draw, "seed": 3, "ignore_eos": True}]
    requests = [{"prompt": "Return the number", "options": settings} for settings in options]
    answers = replay(programs, folder, requests, load)
    with LLM(folder, exact=True, threads=1) as llm:
        for request, answer in zip(requests, answers, strict=True):
            assert answer["token_ids"] == list(llm.generate(request["prompt"], **request["options"]).token_ids)


def test_by_the_library_tokens_are_those_of_python(
    programs: Path, folder: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_operator, "library_path", lambda: library)
    tokens_are_those_of_python(programs, folder, {"operator_library": str(library)}, 0.9)


@pytest.mark.filterwarnings("ignore::ovround.runtime.engines.native.operator.ExpandedWeightsWarning")
def test_expanded_weights_give_the_tokens_of_python(
    programs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_operator, "library_path", lambda: None)
    tokens_are_those_of_python(programs, folder, {}, 0.9)
    done = run(programs / "ovround-run", folder, "a", "--max-new-tokens", 1)
    assert done.returncode == 0
    assert "warning: `" in done.stderr
    assert " weights were expanded: " in done.stderr


def test_a_damaged_weight_is_an_error(programs: Path, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    graph = (copy / "openvino_model.xml").read_text()
    layer = graph[graph.index('type="QuantizedLinear"') :]
    stated = re.search(r'inputs="(\d+)"', layer)
    assert stated is not None
    (copy / "openvino_model.xml").write_text(graph.replace(stated[0], f'inputs="{2 * int(stated[1])}"'))
    done = run(programs / "ovround-run", copy, "a", "--no-verify")
    assert (done.returncode, done.stdout) == (1, "")


def test_without_the_library_the_folder_is_refused_where_that_is_wanted(programs: Path, folder: Path) -> None:
    done = run(programs / "ovround-run", folder, "a", "--kernel", "native")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has weights for the native operator, which is not there: " in done.stderr
    assert "hint: build runtime/native" in done.stderr
    done = run(programs / "ovround-run", folder, "a", "--operator", programs / "libovround.so")
    assert (done.returncode, "cannot be loaded: `" in done.stderr) == (1, True)
    done = run(programs / "ovround-run", folder, "a", "--operator", "/nowhere.so")
    assert (done.returncode, "operator_library is `/nowhere.so`, which is not there" in done.stderr) == (2, True)
    done = run(programs / "ovround-run", folder, "a", "--kernel", "engine")
    assert (done.returncode, "is `engine`; allowed: auto, native" in done.stderr) == (2, True)


def test_a_library_beside_libovround_is_found(programs: Path, folder: Path, library: Path, tmp_path: Path) -> None:
    installed = run("cmake", "--install", programs, "--prefix", tmp_path)
    assert installed.returncode == 0, installed.stderr
    for name in (library.name, KERNELS):
        shutil.copy(library.with_name(name), next(tmp_path.rglob("libovround.so")).parent)
    done = run(tmp_path / "bin" / "ovround-run", folder, "a", "--max-new-tokens", 2, "--kernel", "native")
    assert done.returncode == 0, done.stderr
