"""Checks a built wheel and source distribution: their contents, and that the runtime works without torch.

python tools/package_check.py dist
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

IN_WHEEL = (
    "ovround/__init__.py", "ovround/py.typed", "ovround/calibration.txt", "ovround/demo_model/model.safetensors",
    "ovround/demo_model/heldout.txt", "ovround/exporters/openvino/ops.py", "ovround/exporters/onnx/ops.py",
    "ovround/runtime/llm.py", "ovround/runtime/engines/openvino.py", "ovround/cli/app.py", "ovround/runtime/server/chat.html",
)  # fmt: skip
IN_SDIST = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "THIRD_PARTY.md",
    "Makefile",
    "exporters/exporter.py",
    "runtime/llm.py",
    "tests",
    "docs",
)
NOT_SHIPPED = (".venv", "build/", "__pycache__", ".git/", "out/")


def main(folder: Path) -> int:
    """Return 0 if both archives have the right contents and the wheel runs; otherwise print the errors and return 1."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
    with tarfile.open(sdist) as archive:
        in_sdist = [name.partition("/")[2] for name in archive.getnames()]
    wrong = _differences(wheel.name, in_wheel, IN_WHEEL) + _differences(sdist.name, in_sdist, IN_SDIST)
    for name in wrong or _differences_in_use(wheel):
        print(f"error: {name}", file=sys.stderr)
        return 1
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB; {sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB")
    return 0


def _differences(archive: str, names: list[str], needed: tuple[str, ...]) -> list[str]:
    missing = [
        f"{archive} lacks {name}" for name in needed if not any(n == name or n.startswith(f"{name}/") for n in names)
    ]
    return missing + [f"{archive} holds {name}" for name in names if any(part in f"{name}/" for part in NOT_SHIPPED)]


def _differences_in_use(wheel: Path) -> list[str]:
    """Install the wheel alone in an empty environment and run the commands that need no extra."""
    folder = Path(tempfile.mkdtemp(prefix="ovround-package-"))
    try:
        venv.create(folder, with_pip=True)
        python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
        wrong = []
        for arguments, status, expected in (
            (["-c", "import ovround.runtime, sys; sys.exit('torch' in sys.modules)"], 0, ""),
            (["-m", "ovround", "--help"], 0, "convert"),
            (["-m", "ovround", "devices"], 0, "CPU"),
            (["-m", "ovround", "inspect", "demo"], 0, "can be converted"),
            (["-m", "ovround", "convert", "demo", "out"], 1, "pip install 'ovround[convert]'"),
            (["-m", "ovround", "eval", "demo", "--text", "x.txt"], 1, "x.txt"),
        ):
            done = subprocess.run([python, *arguments], cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != status or expected not in done.stdout + done.stderr:
                wrong.append(f"{' '.join(arguments)}: status {done.returncode}, {done.stdout}{done.stderr}")
        return wrong
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
