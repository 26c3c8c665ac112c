"""Whose kernels compute: the operator's, or the engine's with one warning that says why. No library is built for this."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ovround.cli.app import app
from ovround.conversion.convert import convert
from ovround.errors import EngineError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM, devices
from ovround.runtime.engines.native import library as native_library
from ovround.runtime.engines.native import openvino_versions
from ovround.runtime.engines.native import operator as native_operator
from ovround.runtime.engines.native.library import ExpandedWeightsWarning, UnusedKernelsWarning

NATIVE = Path(__file__).resolve().parents[2] / "runtime" / "native"


@pytest.fixture
def other_openvino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed library that does not work with the OpenVINO in use."""
    library = tmp_path / native_operator._LIBRARY
    library.write_bytes(b"never loaded")
    monkeypatch.setattr(native_operator, "library_path", lambda: library)
    monkeypatch.setattr(native_operator, "is_supported", lambda version: False)


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        ("2026.1.0", True), ("2026.4.1-22982-abc", True), ("2026.4.9", True), ("2026.0.0", False), ("2026.5.0", False),
        ("2027.1.0", False), ("2025.4.1", False), ("custom", False), ("", False), ("2026.x", False),
    ],
)  # fmt: skip
def test_versions(version: str, supported: bool) -> None:
    assert openvino_versions.is_supported(version) is supported


def test_c_and_python_state_the_same_versions() -> None:
    text = (NATIVE / "openvino_versions.hpp").read_text()
    stated = re.search(r"kYear = (\d+), kOldestRelease = (\d+), kNewestRelease = (\d+)", text)
    assert stated is not None
    year, oldest, newest = map(int, stated.groups())
    assert ((year, oldest), (year, newest)) == (openvino_versions.OLDEST, openvino_versions.NEWEST)
    interface = re.search(
        r"#define OVROUND_KERNELS_VERSION (\d+)", (NATIVE / "include" / "ovround" / "kernels.h").read_text()
    )
    assert interface is not None
    assert int(interface[1]) == native_library.INTERFACE


def test_the_package_is_installed_with_a_version_that_works() -> None:
    text = (NATIVE.parents[1] / "pyproject.toml").read_text()
    (year, oldest), (_, newest) = openvino_versions.OLDEST, openvino_versions.NEWEST
    for name in ("openvino", "openvino-tokenizers", "openvino-genai"):
        assert f'"{name}>={year}.{oldest},<{year}.{newest + 1}"' in text


@pytest.mark.usefixtures("other_openvino")
def test_ordinary_weights_stay_with_the_engine_and_one_warning(tiny_folders: dict[str, Path]) -> None:
    with pytest.warns(UnusedKernelsWarning, match="works with OpenVINO 2026.1 to 2026.4, not") as told:
        llm = LLM(tiny_folders["openvino"], threads=1)
    with llm:
        assert llm.kernel == "engine"
        assert llm.generate("a", max_new_tokens=2, ignore_eos=True).token_ids
    assert len(told) == 1
    with LLM(tiny_folders["openvino"], threads=1, kernel="engine") as llm:  # warnings are errors here
        assert llm.kernel == "engine"
    with pytest.raises(EngineError, match="kernel is `native`, yet the native operator works with OpenVINO"):
        LLM(tiny_folders["openvino"], kernel="native")


@pytest.mark.usefixtures("other_openvino")
def test_stored_weights_are_expanded_with_one_warning(tiny_source: Path, tmp_path: Path) -> None:
    options = ConvertOptions(bits=4, group_size=32, recipe="rtn", native_weights=True)
    folder = convert(tiny_source, tmp_path / "out", options).folders[0]
    with (
        pytest.warns(ExpandedWeightsWarning, match="does not work with OpenVINO") as told,
        LLM(folder, threads=1) as llm,
    ):
        assert llm.kernel == "engine"
    assert len(told) == 1
    with pytest.raises(EngineError, match="which does not work with OpenVINO") as caught:
        LLM(folder, kernel="native")
    assert caught.value.hint == "install 2026.1 to 2026.4"


@pytest.mark.usefixtures("other_openvino")
def test_devices_say_which_kernels_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.kernels().kernel == "engine"
    assert devices.kernels().note.startswith("the native operator cannot be loaded: ")
    monkeypatch.setattr(native_library, "instruction_set", lambda path: "avx512vbmi")
    monkeypatch.setattr(native_library, "is_faster", lambda path: True)
    assert "works with OpenVINO 2026.1 to 2026.4" in devices.kernels().note
    monkeypatch.setattr(native_operator, "is_supported", lambda version: True)
    assert devices.kernels() == devices.Kernels("native", "avx512vbmi", "")
    assert "\nkernels: native, avx512vbmi\n" in CliRunner().invoke(app, ["devices"]).stdout
    monkeypatch.setattr(native_library, "is_faster", lambda path: False)
    assert "no 8-bit dot products" in devices.kernels().note
    monkeypatch.setattr(native_operator, "library_path", lambda: None)
    assert "is not installed" in devices.kernels().note
