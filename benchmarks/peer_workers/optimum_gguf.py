"""Makes an OpenVINO folder of a GGUF file as one does without ovround: transformers loads and saves it, optimum-intel exports it.

Both steps run as processes of their own, as a user runs them; the figures of the worker's whole tree are theirs.
Runs in the environment of `optimum-intel`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, name, out = sys.argv[1:]
AutoModelForCausalLM.from_pretrained(folder, gguf_file=name).save_pretrained(out)
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
"""


@dataclass(frozen=True, slots=True)
class Task:
    """The worker's argument: the file, an empty folder for both steps, and `optimum-cli export openvino`'s weight format."""

    gguf: str
    out: str
    weight_format: str = "int8"

    def commands(self) -> list[list[str]]:
        """Loading and saving, then the export."""
        path, floats = Path(self.gguf), f"{self.out}/floats"
        export = ["-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", floats]
        export += ["--task", "text-generation-with-past", "--weight-format", self.weight_format, f"{self.out}/openvino"]
        return [
            [sys.executable, "-I", "-c", LOAD, str(path.parent), path.name, floats],
            [sys.executable, "-I", *export],
        ]


def main(task: Task) -> dict[str, object]:
    """Run both steps; returns CPU seconds and peak memory after each, and the versions."""
    steps = []
    for command in task.commands():
        subprocess.run(command, check=True, stdout=sys.stderr)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        steps.append({"cpu_s": usage.ru_utime + usage.ru_stime, "peak_rss_bytes": usage.ru_maxrss * 1024})
    if not Path(task.out, "openvino", "openvino_model.xml").is_file():
        sys.exit("no model was written")
    packages = ("gguf", "optimum-intel", "nncf", "openvino", "transformers", "torch")
    return {"steps": steps, "versions": {name: version(name) for name in packages}}


if __name__ == "__main__":
    print(json.dumps(main(Task(**json.loads(sys.argv[1])))))
