"""Tries a wheel of `make wheel` in clean environments, with several versions of Python and of OpenVINO.

    python tools/wheel_check.py dist/ovround-*-manylinux_2_28_x86_64.whl --python python3.10 python3.13
    python tools/wheel_check.py dist/ovround-*-manylinux_2_28_x86_64.whl --openvino 2026.0.0 2026.1.0 2026.2.1 2026.3.1 2026.4.1

Needs the extra `convert` here, for the folders that the environments run. One line for each environment: `works`, `falls back` with
the warning that a user sees, or what failed; the exit status is 1 if something failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROMPT, TOKENS = "The with statement is used to", 8
# Prints for each folder whose kernels `auto` uses, the warnings, and the tokens of exact mode.
PROBE = """
import json, sys, warnings
from pathlib import Path
from ovround.runtime import LLM
from ovround.runtime.devices import kernels

result = {"kernels": kernels().kernel, "note": kernels().note, "folders": {}}
for folder in map(Path, sys.argv[3:]):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, such as of a fork beside threads
        with LLM(folder, threads=1) as llm:
            kernel = llm.kernel
            llm.generate(sys.argv[1], max_new_tokens=2, ignore_eos=True)
    with warnings.catch_warnings(), LLM(folder, exact=True, threads=1) as llm:
        warnings.simplefilter("ignore")
        ids = llm.generate(sys.argv[1], max_new_tokens=int(sys.argv[2])).token_ids
    result["folders"][str(folder)] = {
        "kernel": kernel, "warnings": [str(one.message) for one in told], "token_ids": ids}
print(json.dumps(result))
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a wheel did in one environment: `works`, `falls back` or `fails`, and the warning or the error."""

    state: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.words}" if self.words else self.state


def convert_folders(work: Path) -> list[Path]:
    """The built-in model as an ordinary folder, and with native weights for both engines."""
    from ovround.conversion.convert import convert
    from ovround.options.convert_options import ConvertOptions

    options = {"bits": 4, "group_size": 64, "recipe": "rtn"}
    ordinary = convert("demo", work / "ordinary", ConvertOptions(formats=("openvino",), **options))  # type: ignore[arg-type]
    both = ConvertOptions(formats=("openvino", "onnx"), native_weights=True, **options)  # type: ignore[arg-type]
    openvino, onnx = convert("demo", work / "native", both).folders
    for file in openvino.glob("openvino_*tokenizer.*"):  # the C++ runtime's tokenizer of any folder
        shutil.copy2(file, onnx)
    return [*ordinary.folders, openvino, onnx]


class Environment:
    """A virtual environment with the wheel and nothing of this checkout."""

    def __init__(self, folder: Path, python: str, wheel: Path) -> None:
        self.folder = folder
        subprocess.run([python, "-m", "venv", folder], check=True)
        self.install(wheel)

    def install(self, *packages: object, deps: bool = True) -> None:
        pip = [str(self.folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *([] if deps else ["--no-deps"]), *map(str, packages)], check=True)

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in (self.folder / "bin" / program, *arguments)]
        return subprocess.run(
            words, cwd=self.folder, capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8"}
        )

    def probe(self, folders: list[Path]) -> dict[str, Any]:
        """What PROBE prints; RuntimeError with the reason if it fails."""
        done = self.run("python", "-c", PROBE, PROMPT, TOKENS, *folders)
        if done.returncode:
            raise RuntimeError(ended(done))
        document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return document


def ended(done: subprocess.CompletedProcess[str]) -> str:
    """How a failed process ended, in words."""
    lines = done.stderr.strip().splitlines() or ["no message"]
    return f"{signal.Signals(-done.returncode).name}: {lines[-1]}" if done.returncode < 0 else lines[-1]


def check(environment: Environment, folders: list[Path]) -> Outcome:
    """Run every folder by Python's runtime, those of OpenVINO by `ovround-run` too, and build a program with CMake."""
    try:
        document = environment.probe(folders)
    except RuntimeError as error:
        return Outcome("fails", str(error))
    runs = list(document["folders"].values())
    answers = {tuple(run["token_ids"]) for run in runs}
    if len(answers) != 1:
        return Outcome("fails", f"the folders' answers differ: {sorted(answers)}")
    (answer,) = answers
    native = document["kernels"] == "native"
    if native:
        for name, run in document["folders"].items():
            if run["kernel"] != "native" or run["warnings"]:
                return Outcome("fails", f"{name}: {run}")
    elif any(len(run["warnings"]) != 1 for run in runs if "operator" in document["note"] and run["kernel"] == "engine"):
        return Outcome("fails", f"not one warning: {runs}")
    for folder in folders:
        done = environment.run("ovround-run", folder, PROMPT, "--raw", "--exact", "--max-new-tokens", TOKENS, "--json")
        if not native and done.returncode == 1 and "error: OpenVINO is" in done.stderr:
            continue  # the C++ runtime refuses such an OpenVINO, in words
        if done.returncode or tuple(json.loads(done.stdout)["token_ids"]) != answer:
            return Outcome("fails", f"ovround-run {folder}: {ended(done)} {done.stdout}")
    return Outcome("works") if native else Outcome("falls back", document["note"])


def check_cmake(environment: Environment, folder: Path, work: Path) -> Outcome:
    """Build examples/cpp with the CMake package of the wheel, and run it."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        return Outcome("works", "CMake was not tried: there is none here")
    (package,) = environment.folder.glob("lib/python3*/site-packages/ovround/native/lib/cmake/ovround")
    for command in (
        ["cmake", "-S", ROOT / "examples" / "cpp", "-B", work, f"-Dovround_DIR={package}"],
        ["cmake", "--build", work, "--target", "minimal"],
        [work / "minimal", folder, PROMPT],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            return Outcome("fails", f"{command[0]}: {ended(done)}")
    return Outcome("works")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="PROGRAM")
    parser.add_argument("--openvino", nargs="+", default=[], metavar="VERSION", help="the first PYTHON tries these")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="ovround-wheel-") as scratch:
        work = Path(scratch)
        folders = convert_folders(work / "folders")
        for number, python in enumerate(options.python):
            environment = Environment(work / f"python-{number}", python, options.wheel.resolve())
            if number == 0 and options.openvino:
                for version in options.openvino:
                    environment.install(f"openvino=={version}", f"openvino-tokenizers=={version}.*", deps=False)
                    outcome = check(environment, folders)
                    print(f"OpenVINO {version}: {outcome}", flush=True)
                    failed |= outcome.state == "fails"
                continue
            for what, outcome in (
                ("runs", check(environment, folders)),
                ("CMake", check_cmake(environment, folders[0], work / f"cmake-{number}")),
            ):
                print(f"{python}, {what}: {outcome}", flush=True)
                failed |= outcome.state == "fails"
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
