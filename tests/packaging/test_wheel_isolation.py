"""The runtime in an application needs no torch, no transformers and no file of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from ovround.artifact.manifest import ENGINE_FORMATS

ROOT = Path(__file__).resolve().parents[2]
TOOLCHAIN = ("torch", "transformers", "onnx", "huggingface_hub")
GENERATE = """
import json, sys
from pathlib import Path

import ovround.runtime

texts = []
for folder in sys.argv[1:]:
    with ovround.runtime.LLM(folder, exact=True, threads=1) as llm:
        texts.append(llm.generate("The with statement is used to", max_new_tokens=8).text)
print(json.dumps({"texts": texts, "modules": sorted(sys.modules), "file": ovround.runtime.__file__}))
"""
FIND = """
import json, sys
from importlib.util import find_spec

print(json.dumps({name: find_spec(name) is not None for name in sys.argv[1:]}))
"""
NO_INDEX = ("No matching distribution found", "Could not find a version", "Failed to establish a new connection")


def run_python(
    python: str | Path, code: str, *arguments: object, cwd: Path, environment: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Run `code` and return the JSON document on its last line of output."""
    words = [str(python), "-c", code, *(str(argument) for argument in arguments)]
    result = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert result.returncode == 0, result.stderr
    document: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return document


def test_the_runtime_needs_no_toolchain(demo_folders: dict[str, Path], tmp_path: Path) -> None:
    blocked = f"import sys\nfor name in {TOOLCHAIN}:\n    sys.modules[name] = None\n"
    document = run_python(sys.executable, blocked + GENERATE, *demo_folders.values(), cwd=tmp_path)
    first, second = document["texts"]
    assert first == second
    assert len(first) > 3
    modules = document["modules"]
    assert isinstance(modules, list)
    own = {name.split(".")[1] for name in modules if name.startswith("ovround.")}
    assert own == {"runtime", "artifact", "errors", "limits", "record", "tensors"}
    tensors = {name for name in modules if name.startswith("ovround.tensors.")}
    names = ("affine_tensor", "group_values", "native_layout", "quantized_linear_node", "scheme")
    assert tensors == {f"ovround.tensors.{name}" for name in names}


@pytest.mark.parametrize("engine", ENGINE_FORMATS)
def test_only_the_engine_of_the_folder_is_imported(demo_folders: dict[str, Path], tmp_path: Path, engine: str) -> None:
    document = run_python(sys.executable, GENERATE, demo_folders[engine], cwd=tmp_path)
    modules = document["modules"]
    assert isinstance(modules, list)
    assert {"openvino", "onnxruntime"} & set(modules) == {"openvino" if engine == "openvino" else "onnxruntime"}
    assert not {*TOOLCHAIN, "ovround.conversion.convert", "ovround.measure", "ovround.quant", "ovround.models"} & set(
        modules
    )


def pip(*words: object) -> None:
    """Run pip; skips the test if no package index answers."""
    command = [sys.executable, "-m", "pip", "--quiet", *(str(word) for word in words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode and any(reason in result.stderr for reason in NO_INDEX):
        pytest.skip(f"no package index is reachable: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with only the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip("--python", python, "install", "--no-compile", wheel)
    return python


@pytest.fixture
def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.mark.slow
def test_what_is_in_the_wheel(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package, folder in (("ovround", "ovround"), ("ovround/exporters", "exporters"), ("ovround/runtime", "runtime")):
        for path in (ROOT / folder).rglob("*.py"):
            if {"cpp", "page"} & set(path.parts):  # the sources of the wheel with the kernels, and of the chat page
                continue
            assert f"{package}/{path.relative_to(ROOT / folder).as_posix()}" in names
    demo = {f"ovround/demo_model/{path.name}" for path in (ROOT / "ovround" / "demo_model").iterdir()}
    assert demo | {"ovround/calibration.txt", "ovround/py.typed"} <= names
    assert any(name.endswith("/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ovround"}
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name or "/benchmarks/" in name]


@pytest.mark.slow
def test_a_clean_environment_generates(
    clean_python: Path, clean_environment: dict[str, str], demo_folders: dict[str, Path], tmp_path: Path
) -> None:
    document = run_python(clean_python, GENERATE, *demo_folders.values(), cwd=tmp_path, environment=clean_environment)
    assert str(document["file"]).startswith(str(clean_python.parent.parent))
    expected = run_python(sys.executable, GENERATE, *demo_folders.values(), cwd=tmp_path)
    assert document["texts"] == expected["texts"]
    installed = run_python(
        clean_python, FIND, "torch", "transformers", "onnx", cwd=tmp_path, environment=clean_environment
    )
    assert installed == {"torch": False, "transformers": False, "onnx": False}


@pytest.mark.slow
def test_the_command_of_a_clean_environment(
    clean_python: Path, clean_environment: dict[str, str], demo_folders: dict[str, Path], tmp_path: Path
) -> None:
    def ovround(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(clean_python.parent / "ovround"), *(str(word) for word in words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=clean_environment)

    answer = ovround("run", demo_folders["onnx"], "The with statement is used to", "--max-new-tokens", "8")
    assert answer.returncode == 0, answer.stderr
    assert ovround("inspect", "demo").returncode == 0
    text = tmp_path / "text.txt"
    text.write_text("The with statement is used to wrap the execution of a block. " * 30)
    score = ovround("eval", demo_folders["openvino"], "--text", text, "--context", "64", "--json")
    assert score.returncode == 0, score.stderr
    assert json.loads(score.stdout)["texts"][0]["perplexity"] > 1
    for words in (("convert", "demo", "out"), ("eval", "demo", "--text", text)):
        refused = ovround(*words)
        assert refused.stderr.splitlines() == [
            "error: this needs `torch`, which is not installed",
            "hint: pip install 'ovround[convert]'",
        ]
        assert (refused.returncode, refused.stdout) == (1, "")
    assert not (tmp_path / "out").exists()
