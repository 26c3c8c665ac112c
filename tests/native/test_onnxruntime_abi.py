"""The places of ONNX Runtime's functions in `runtime/native/onnxruntime_abi.hpp`: as its comments state, and as in the real header."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

OURS = Path(__file__).resolve().parents[2] / "runtime" / "native" / "onnxruntime_abi.hpp"
TEXT = OURS.read_text()
PLACES = dict(re.findall(r"\(\*(\w+)\)\([^;]*\);\s*//\s*(\d+)", TEXT[TEXT.index("struct OrtApi {") :]))
VALUES = dict(re.findall(r"\b(\w+) = (\d+)[,\s}]", TEXT))
MEMBERS = ["version", *re.findall(r"\(\*(\w+)\)", TEXT[TEXT.index("struct OrtCustomOp {") :])]
INSTALLED = [Path("/usr/include") / folder for folder in ("onnxruntime", "onnxruntime/core/session", "")]


def compiled(*includes: str) -> subprocess.CompletedProcess[str]:
    """A program that does not compile if a function stands at another place, or a constant has another value."""
    if shutil.which("c++") is None:
        pytest.skip("no c++")
    lines = [f'#include "{include}"' for include in includes] + ["#include <cstddef>"]
    lines += [f"static_assert(offsetof(OrtApi, {name}) == {place} * sizeof(void*));" for name, place in PLACES.items()]
    lines += [f"static_assert(offsetof(OrtCustomOp, {name}) == {8 * at});" for at, name in enumerate(MEMBERS)]
    lines += [f"static_assert(int({name}) == {value});" for name, value in VALUES.items()]
    lines += [f"static_assert(sizeof(OrtCustomOp) == {8 * (len(MEMBERS) + 4)});"]
    command = ["c++", "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)


def test_functions_are_where_the_comments_say() -> None:
    assert len(PLACES) == TEXT[TEXT.index("struct OrtApi {") : TEXT.index("struct OrtApiBase")].count("(*") - 1
    assert PLACES["KernelContext_ParallelFor"] == "274"
    done = compiled(str(OURS))
    assert done.returncode == 0, done.stderr


def test_functions_are_where_the_real_header_has_them() -> None:
    header = next(
        (folder / "onnxruntime_c_api.h" for folder in INSTALLED if (folder / "onnxruntime_c_api.h").is_file()), None
    )
    if header is None:
        pytest.skip("no onnxruntime_c_api.h (Debian 13: libonnxruntime-dev)")
    done = compiled(str(header))
    assert done.returncode == 0, done.stderr
