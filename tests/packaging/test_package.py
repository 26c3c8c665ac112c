"""`import ovround` is fast, and its public names are never shadowed by modules that were imported before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ovround

HEAVY = ("numpy", "torch", "transformers", "openvino", "onnxruntime", "onnx", "tokenizers", "typer")
MODULES = sorted({f"import {home}" for home in ovround._HOMES.values()})


def run(code: str, cwd: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_it_imports_nothing_else(tmp_path: Path) -> None:
    code = f"import sys, ovround\nprint(ovround.__version__, *({{*{HEAVY}}} & set(sys.modules)))"
    assert run(code, tmp_path) == f"{ovround.__version__}\n"


@pytest.mark.parametrize("first", ["", *MODULES])
def test_public_names_are_never_modules(tmp_path: Path, first: str) -> None:
    code = f"{first}\nimport ovround\nfrom ovround import {', '.join(ovround.__all__)}\nimport types\n"
    code += f"for name in {ovround.__all__}:\n"
    code += "    value = getattr(ovround, name)\n"
    code += "    assert value is globals()[name] and not isinstance(value, types.ModuleType), name\n"
    run(code, tmp_path)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'ovround' has no attribute 'LMM'"):
        ovround.LMM  # noqa: B018
