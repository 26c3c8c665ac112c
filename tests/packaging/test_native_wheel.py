"""The wheel of `make wheel` in clean environments: the oldest and the newest Python, several versions of OpenVINO.

OVROUND_TEST_WHEEL names a wheel that is built already.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cpp_build import ROOT, need_compiler, run
from tool_module import tool_module

wheel_check = tool_module("wheel_check")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first test builds
IN_WHEEL = {
    "include/ovround/kernels.h", "include/ovround/ovround.h", "include/ovround/ovround.hpp",
    "lib/cmake/ovround/ovroundConfig.cmake", "lib/libovround.so", "lib/libovround_kernels.so",
    "lib/libovround_onnx_operator.so", "lib/libovround_operator.so", "lib/libovround_run.so",
}  # fmt: skip
PYTHONS = ("3.10", "3.13")


def find_python(version: str) -> str | None:
    """A Python of this version that runs: on the path, or of pyenv, whose commands on the path may be switched off."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))]
    return next((python for python in candidates if python and run(python, "-c", "import venv").returncode == 0), None)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "OVROUND_TEST_WHEEL" in os.environ:
        return Path(os.environ["OVROUND_TEST_WHEEL"])
    need_compiler()
    folder = tmp_path_factory.mktemp("wheel")
    made = run("make", "wheel", f"VENV={folder / 'venv'}", f"PYTHON={sys.executable}", f"DIST={folder}", cwd=ROOT)
    if made.returncode and re.search("No matching distribution|Could not find a version|connection", made.stderr):
        pytest.skip("no package index is reachable")
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-4000:]
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return wheel_check.convert_folders(tmp_path_factory.mktemp("folders"))


@pytest.fixture(scope="module", params=PYTHONS)
def environment(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param}")
    folder = tmp_path_factory.mktemp("environment")
    yield wheel_check.Environment(folder, python, wheel)
    shutil.rmtree(folder)


def test_what_is_in_it(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-manylinux_2_28_x86_64.whl")
    assert wheel.stat().st_size < 8e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"ovround/native/{name}" for name in IN_WHEEL} <= names
    assert any(name.endswith(".data/scripts/ovround-run") for name in names)
    assert not [name for name in names if ".so." in name or "/openvino/libs" in name]  # no other library's file


def test_no_library_names_a_version_or_a_folder_of_this_computer(wheel: Path, tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [archive.extract(name, tmp_path) for name in archive.namelist() if name.endswith(".so")]
    for library in libraries:
        dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        needed = set(re.findall(r"NEEDED\).*\[(.+)\]", dynamic))
        assert not [name for name in needed if "openvino" in name or "tbb" in name or "python" in name], library
        assert set(re.findall(r"R(?:UN)?PATH\).*\[(.+)\]", dynamic)) <= {"$ORIGIN"}, library
        assert str(ROOT).encode() not in Path(library).read_bytes(), library


def test_it_runs_in_a_clean_environment(environment: Any, folders: list[Path], tmp_path: Path) -> None:
    outcome = wheel_check.check(environment, folders)
    assert outcome.state == "works" or (outcome.state == "falls back" and "dot products" in outcome.words), outcome
    assert str(wheel_check.check_cmake(environment, folders[0], tmp_path / "cmake")).startswith("works")
    refused = environment.run("ovround-run", "/nowhere", "a")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (1, "error: `/nowhere` does not exist")
    assert environment.run("ovround-run").returncode == 2


def test_other_versions_of_openvino(environment: Any, folders: list[Path]) -> None:
    """`python tools/wheel_check.py` tries all versions."""
    for version, state in (("2026.1.0", "works"), ("2026.0.0", "falls back")):
        environment.install(f"openvino=={version}", f"openvino-tokenizers=={version}.*", deps=False)
        outcome = wheel_check.check(environment, folders)
        assert outcome.state in (state, "falls back"), (version, outcome)
