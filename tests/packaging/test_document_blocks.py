"""The `bash` and `python` blocks of README.md, the quickstart and some guides, run from top to bottom in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GUIDES = ("bench.md", "chat.md", "models.md", "tuning-settings.md")  # the others tune for minutes, or need a server
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def documents() -> list[Path]:
    """The documents whose blocks run in seconds."""
    return [ROOT / "README.md", ROOT / "docs" / "quickstart.md", *(ROOT / "docs" / "guides" / name for name in GUIDES)]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_blocks_run(document: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ovround").write_text(f'#!/bin/sh\nexec {sys.executable} -m ovround "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "OVROUND_CACHE": str(tmp_path / "cache"),
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    for language, block in BLOCK.findall(document.read_text(encoding="utf-8")):
        command = ["bash", "-euo", "pipefail", "-c", block] if language == "bash" else [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
