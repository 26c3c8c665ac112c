"""Runs `forbidden.py`, and mypy and the import contracts on the package in the layout of a wheel.

    python tools/static_checks.py

mypy and import-linter run on a copy under `build/typing` (`package_layout.py` says why). The contracts run in a Python
without site hooks (`-S`): the import hook of an editable install would lead import-linter back to the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = ROOT / "build" / "typing"
CONFIG = str(ROOT / "pyproject.toml")


def main() -> int:
    subprocess.run([sys.executable, str(ROOT / "tools/package_layout.py"), str(LAYOUT)], check=True)
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
