"""Runs `forbidden.py`, and mypy and the import contracts on the package in the layout of a wheel.

    python tools/static_checks.py

A checkout keeps `exporters/` and `runtime/` beside the package and extends its `__path__`. mypy and import-linter do not
follow that, so both run on a copy under `build/typing`. The contracts run in a Python without site hooks (`-S`): the import
hook of an editable install would lead import-linter back to the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = ROOT / "build" / "typing"
ROOMS = {"ovround": "ovround", "exporters": "ovround/exporters", "runtime": "ovround/runtime", "tools": "tools"}
CONFIG = str(ROOT / "pyproject.toml")


def lay_out() -> None:
    """Copy the Python files into a fresh layout, without native parts and data."""
    shutil.rmtree(LAYOUT, ignore_errors=True)
    for source, subfolder in ROOMS.items():
        for path in sorted((ROOT / source).rglob("*.py")):
            copy = LAYOUT / subfolder / path.relative_to(ROOT / source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def main() -> int:
    lay_out()
    mypy = [
        "-m",
        "mypy",
        "--config-file",
        CONFIG,
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
        "-p",
        "ovround",
        "-p",
        "tools",
    ]
    contracts = ["-S", "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    contracts += ["--config", CONFIG, "--no-logo", "--cache-dir", str(ROOT / ".import_linter_cache")]
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    failed = subprocess.run([sys.executable, str(ROOT / "tools/forbidden.py")], check=False).returncode
    failed |= subprocess.run([sys.executable, *contracts], cwd=LAYOUT, env=environment, check=False).returncode
    return subprocess.run([sys.executable, *mypy], cwd=LAYOUT, check=False).returncode or failed


if __name__ == "__main__":
    sys.exit(main())
