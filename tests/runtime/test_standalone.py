"""The runtime in an application that has neither torch nor transformers, nor the toolchain's own libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ovround

PROGRAM = """
import sys
absent = ["torch", "transformers", "onnx", "openvino_genai", "onnxruntime_genai", "huggingface_hub"] + sys.argv[2:]
for name in absent:
    sys.modules[name] = None
from ovround.measure.benchmark import bench
from ovround.runtime import LLM
from ovround.runtime.devices import devices, machine
assert devices() and machine().cores and bench
with LLM(sys.argv[1]) as llm:
    assert len(llm.generate("the cat", max_new_tokens=4).token_ids) == 4
    assert llm.chat([{"role": "user", "content": "hi"}], max_new_tokens=2).text is not None
loaded = set(sys.modules)
assert not loaded & {"ovround.models", "ovround.exporters", "ovround.quant", "ovround.checkpoint", "ovround.conversion.convert"}
"""


@pytest.mark.parametrize(("fixture", "other"), [("openvino_folder", "onnxruntime"), ("onnx_folder", "openvino")])
def test_it_runs_alone_and_loads_one_engine(request: pytest.FixtureRequest, fixture: str, other: str) -> None:
    folder: Path = request.getfixturevalue(fixture)
    root = Path(ovround.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), other],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
