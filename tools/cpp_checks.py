"""Checks the C++ code: clang-format, the fuzzer, the native kernels under ThreadSanitizer and, if asked for, clang-tidy.

A check whose program is not installed is skipped. The tests build build/cpp and build/cpp-sanitizers, which must exist.

    python tools/cpp_checks.py [--tidy] [--fuzz SECONDS]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "runtime/native",
    "runtime/cpp/src",
    "runtime/cpp/include",
    "runtime/cpp/program",
    "runtime/cpp/tests",
    "examples/cpp",
)
TIDY = ("runtime/cpp/src", "runtime/cpp/program")
SUFFIXES = (".c", ".cpp", ".h", ".hpp", ".inl")


def files(folders: tuple[str, ...], suffixes: tuple[str, ...]) -> list[str]:
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*")))
    return [str(path.relative_to(ROOT)) for path in paths if path.suffix in suffixes]


def run(*command: str) -> bool:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr[-8000:], file=sys.stderr)
    return done.returncode == 0


def formatted() -> bool:
    return run("clang-format", "--dry-run", "-Werror", *files(FOLDERS, SUFFIXES))


def tidy() -> bool:
    text = (ROOT / "build" / "cpp" / "compile_commands.json").read_text()
    database = ROOT / "build" / "cpp-tidy" / "compile_commands.json"
    database.parent.mkdir(exist_ok=True)
    # Without the precompiled header, which only GCC reads: each file has to include what it needs.
    database.write_text(re.sub(r"-Winvalid-pch -include \S+cmake_pch\.hxx", "", text))
    sources = [
        name for name in files(TIDY, (".cpp",)) if str(ROOT / name) in text
    ]  # only the sources that this build compiles
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return all(list(pool.map(lambda name: run("clang-tidy", "--quiet", "-p", str(database.parent), name), sources)))


def fuzz(seconds: int) -> bool:
    fuzzer = ROOT / "build" / "cpp-sanitizers" / "tests" / "fuzz" / "ovround-fuzz"
    if not fuzzer.exists():
        print("the fuzzer was not built: no Clang with the sanitizers' libraries")
        return True
    corpus = ROOT / "build" / "cpp-fuzz-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    return run(str(fuzzer), f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", str(corpus))


def races() -> bool:
    """Run every native kernel that this processor supports on several threads under ThreadSanitizer (tests/race.cpp).

    Other sanitizers are run by hand: with them GCC takes six minutes to compile the kernels (docs/concepts/native-operator.md).
    """
    folder = ROOT / "build" / "native-thread"
    settings = ("-DOVROUND_OPERATOR=OFF", "-DOVROUND_SANITIZE=thread")
    return (
        run("cmake", "-S", str(ROOT / "runtime" / "native"), "-B", str(folder), *settings)
        and run("cmake", "--build", str(folder), "-j", "--target", "ovround_kernels_race")
        and run(str(folder / "ovround_kernels_race"))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fuzz", type=int, default=60, metavar="SECONDS")
    parser.add_argument("--tidy", action="store_true", help="run clang-tidy too: about 4 minutes on one core")
    arguments = parser.parse_args()
    passed = True
    checks: list[tuple[str, str, Callable[[], bool]]] = [
        ("clang-format", "clang-format", formatted),
        *([("clang-tidy", "clang-tidy", tidy)] if arguments.tidy else []),
        ("native kernels, ThreadSanitizer", "cmake", races),
        ("the fuzzer", "clang++", lambda: fuzz(arguments.fuzz)),
    ]
    for name, needed, check in checks:
        if shutil.which(needed) is None:
            print(f"{name}: skipped, {needed} is not installed")
            continue
        good = check()
        passed = passed and good
        print(f"{name}: {'passed' if good else 'failed'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
