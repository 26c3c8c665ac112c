"""Constants without bytes: while a graph is written, the memory that stands for its weights is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SIZES = (48 << 20, 64 << 20, 96 << 20)  # beyond 32 MiB freed memory goes back to the system, and reading it is a crash
SCRIPT = """
import json, sys
from pathlib import Path
import openvino as ov
from openvino import opset13 as opset
from ovround.exporters.openvino.constants import ConstantFile
file = ConstantFile(Path(sys.argv[1]))
for size in json.loads(sys.argv[2]):
    name = f"weight{size}"
    file.entries[name] = file._room(name, "u4", (2, size))
    file.node(name)
results = [opset.result(file.node(name)) for name in file.entries]
ov.serialize(ov.Model(results, [], "placeholders"), sys.argv[1] + ".xml")
"""


def test_a_larger_weight_after_a_smaller_one(tmp_path: Path) -> None:
    """OpenVINO reads every constant to tell equal ones apart."""
    arguments = [str(tmp_path / "weights"), json.dumps(SIZES)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
