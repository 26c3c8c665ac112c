"""The ways to use the C++ runtime in another project: installed, by pkg-config, as a subdirectory, and in a wheel."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cpp_build import ROOT, SOURCE, built, need_compiler, run

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first test builds


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ConvertOptions(formats=("openvino",), group_size=64, recipe="rtn")
    return convert("demo", tmp_path_factory.mktemp("demo") / "out", options).folders[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_compiler()
    prefix = tmp_path_factory.mktemp("installed")
    done = run("cmake", "--install", built(SOURCE, ROOT / "build" / "cpp"), "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    return prefix


@pytest.fixture(scope="module")
def examples(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT / "examples" / "cpp", tmp_path_factory.mktemp("examples"), f"-DCMAKE_PREFIX_PATH={installed}")


@pytest.mark.parametrize("name", ["minimal", "minimal_c"])
def test_an_example_answers(examples: Path, demo: Path, name: str) -> None:
    done = run(examples / name, demo, "Return the")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    refused = run(examples / name, "/nowhere", "Return the")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (1, "error: `/nowhere` does not exist")


def test_the_example_of_a_chat_streams_two_turns(examples: Path, demo: Path) -> None:
    done = run(examples / "chat", demo, input="How do I open a file?\nAnd close it?\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("> ") >= 3
    assert len(done.stdout) > 20


def test_the_minimal_example_is_short() -> None:
    assert len((ROOT / "examples" / "cpp" / "minimal.cpp").read_text().splitlines()) < 30


def test_what_is_installed_can_be_moved(installed: Path, demo: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(installed, tmp_path / "moved", symlinks=True)
    done = run(moved / "bin" / "ovround-run", demo, "Return the", "--max-new-tokens", 2)
    assert done.returncode == 0, done.stderr


def test_pkg_config_finds_it(installed: Path, demo: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    (file,) = installed.rglob("ovround.pc")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(file.parent)}
    flags = run("pkg-config", "--cflags", "--libs", "ovround", env=environment)
    assert flags.returncode == 0, flags.stderr
    library = f"-Wl,-rpath,{file.parent.parent}"
    source = ROOT / "examples" / "cpp" / "minimal.cpp"
    linked = run("c++", "-std=c++17", source, "-o", tmp_path / "minimal", *flags.stdout.split(), library)
    assert linked.returncode == 0, linked.stderr
    assert run(tmp_path / "minimal", demo, "Return the").returncode == 0


def test_it_is_a_folder_of_another_project(demo: Path, tmp_path: Path) -> None:
    need_compiler()
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(other LANGUAGES C CXX)\n"
        f'add_subdirectory("{SOURCE}" ovround)\n'
        f'add_executable(other "{ROOT}/examples/cpp/minimal.cpp")\n'
        "target_link_libraries(other PRIVATE ovround::ovround)\n"
    )
    cheap = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0")  # without debug information
    build = built(tmp_path, tmp_path / "build", *cheap, "-DBUILD_SHARED_LIBS=OFF")
    done = run(build / "other", demo, "Return the")
    assert done.returncode == 0, done.stderr
    assert not list(build.rglob("ovround-run"))  # programs and tests are not built in another project
