"""The package contains no code that executes data, and the check for it detects each planted violation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[2] / "tools" / "forbidden.py"


def test_the_package_is_clean() -> None:
    done = subprocess.run([sys.executable, CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import joblib.numpy_pickle", "eval('1')", "torch.load(path)",
        "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)", "from pickle import PickleError, load",
        "np.load(path)", "x.from_pretrained(a)", "x.from_pretrained(a, trust_remote_code=True)",
        "x.from_pretrained(a, trust_remote_code=flag)", "subprocess.run('ls', shell=True)", "import yaml", "exec(text)",
    ],
)  # fmt: skip
def test_what_is_planted_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "module.py").write_text(f"def f(x, a, flag, path, text):\n    {line}  # noqa\n")
    done = subprocess.run([sys.executable, CHECK, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "module.py:2: " in done.stdout


def test_no_files_is_a_failure(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, CHECK, tmp_path], capture_output=True, check=False).returncode == 1
