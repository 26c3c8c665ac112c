"""Builds an int4 ONNX model with onnxruntime-genai's own builder, as its documentation describes.

Runs in the environment of `onnxruntime-genai`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile


def main(model: str, out: str, group_size: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-I", "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", out, "-c", cache]
        options = [
            "-p",
            "int4",
            "-e",
            "cpu",
            "--extra_options",
            f"int4_block_size={group_size}",
            "int4_accuracy_level=4",
        ]
        subprocess.run([*command, *options], check=True, stdout=sys.stderr)
    return {"out": out}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
