"""Exports a Hugging Face folder with `optimum-cli export openvino` to int4 weights, and measures that process.

The command line is the one that a user types. It runs as a child process, so its seconds and bytes contain nothing of ours.
Runs in the environment of `optimum-intel`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

CONSTANT = re.compile(r'type="Const"[^>]*>\s*<data element_type="(\w+)"[^>]*size="(\d+)"')


@dataclass(frozen=True, slots=True)
class Task:
    """The worker's argument; the fields are `optimum-cli export openvino`'s own options."""

    model: str
    out: str
    weight_format: str = "int4"
    group_size: int = 128  # -1: one group a row
    sym: bool = True
    ratio: float = 1.0
    group_size_fallback: str | None = None  # error | ignore | adjust, for layers that the group size does not divide

    def command(self) -> list[str]:
        """The command that a user would type, with the module instead of `optimum-cli`."""
        options = ["-m", self.model, "--task", "text-generation-with-past", "--weight-format", self.weight_format]
        if self.weight_format == "int4":
            options += ["--group-size", str(self.group_size), "--ratio", str(self.ratio)]
            options += ["--sym"] if self.sym else []
        if self.group_size_fallback is not None:
            options += ["--group-size-fallback", self.group_size_fallback]
        # As a module, because the script in bin/ names the temporary folder in which the environment was built.
        return [sys.executable, "-I", "-m", "optimum.commands.optimum_cli", "export", "openvino", *options, self.out]


def constant_types(xml: Path) -> dict[str, int]:
    """Bytes of the model's constants by element type: {"i4": ..., "f16": ...}."""
    sizes: Counter[str] = Counter()
    for element_type, size in CONSTANT.findall(xml.read_text()):
        sizes[element_type] += int(size)
    return dict(sizes)


def main(task: Task) -> dict[str, object]:
    """Export; returns seconds, bytes and the contents of the folder."""
    command = task.command()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    export_s = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"failed: {' '.join(command)}")
    files = [path for path in Path(task.out).rglob("*") if path.is_file()]
    packages = ("optimum-intel", "nncf", "openvino", "openvino-tokenizers", "transformers", "torch")
    return {
        "export_s": round(export_s, 3),
        "export_peak_rss_bytes": usage.ru_maxrss * 1024,
        "size_bytes": sum(path.stat().st_size for path in files),
        "constant_bytes": constant_types(Path(task.out, "openvino_model.xml")),
        "has_tokenizer": Path(task.out, "openvino_tokenizer.xml").is_file(),
        "versions": {name: version(name) for name in packages},
    }


if __name__ == "__main__":
    print(json.dumps(main(Task(**json.loads(sys.argv[1])))))
