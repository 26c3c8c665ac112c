"""How the tests build C++: with CMake, into build/ or where they say, skipping where there is nothing to build with."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "runtime" / "cpp"


def run(*arguments: object, **keywords: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in arguments], capture_output=True, text=True, check=False, **keywords)


def need_programs() -> None:
    """Skip the test where nothing written in C++ can be built."""
    missing = [program for program in ("cmake", "c++") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {missing[0]} to build C++ with")


def need_compiler() -> None:
    """Skip the test where the C++ runtime cannot be built."""
    need_programs()
    if run("c++", "-x", "c++", "-fsyntax-only", "-include", "nlohmann/json.hpp", os.devnull).returncode:
        pytest.skip("no nlohmann/json.hpp to build the C++ runtime with")


def clang_has_sanitizers() -> bool:
    """Whether there is a Clang with its runtime libraries, which Debian packages apart."""
    if shutil.which("clang++") is None:
        return False
    command = ("clang++", "-fsanitize=address,undefined", "-x", "c++", "-", "-o")
    with tempfile.TemporaryDirectory() as scratch:
        return run(*command, Path(scratch) / "program", input="int main() {}").returncode == 0


def built(source: Path, folder: Path, *options: str) -> Path:
    """`source` configured and built in `folder`, by one process at a time; what was built before is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            (
                "cmake",
                "-S",
                source,
                "-B",
                folder,
                f"-DPython3_EXECUTABLE={sys.executable}",
                "-DOVROUND_WERROR=ON",
                *options,
            ),
            ("cmake", "--build", folder, "--parallel", len(os.sched_getaffinity(0))),
        ):
            done = run(*command)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


def replay(
    programs: Path, folder: Path, requests: Sequence[dict[str, Any]], load: Any = None, **keywords: Any
) -> Iterator[Any]:
    """What the C++ runtime, opened with the options `load`, answers to each request, with exact arithmetic."""
    lines = "".join(json.dumps({"options": {}, **request}) + "\n" for request in requests)
    done = run(programs / "tests" / "ovround-replay", folder, json.dumps(load or {}), input=lines, **keywords)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(requests)
    return iter(answers)
