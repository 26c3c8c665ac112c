"""The package as a wheel holds it, for tools that read files and follow no import hook.

    python tools/package_layout.py FOLDER

A checkout keeps `exporters/` and `runtime/` beside `ovround/`, and `ovround/__init__.py` appends the checkout's root to its
`__path__`. Python finds `ovround.exporters` by that; type checkers, import graphs and editors do not. Point them at FOLDER.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"ovround": "ovround", "exporters": "ovround/exporters", "runtime": "ovround/runtime", "tools": "tools"}


def lay_out(folder: Path) -> None:
    """Fresh copies of all Python files in `folder`, each where a wheel has it; native parts and data stay out."""
    shutil.rmtree(folder, ignore_errors=True)
    for room, place_in_wheel in ROOMS.items():
        for path in sorted((ROOT / room).rglob("*.py")):
            copy = folder / place_in_wheel / path.relative_to(ROOT / room)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
