"""Writes the tokenizer's graphs in a process of its own, whose memory is gone when the weights are read.

openvino_tokenizers needs transformers, and transformers imports torch wherever it is installed: 200 MB and 2.5 s of CPU time that
a conversion which tunes nothing has no use for. In the other process torch cannot be imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
sys.path[:] = sys.argv[3:]
sys.modules["torch"] = None
import transformers
from pathlib import Path
from ovround.exporters.openvino.tokenizer_graphs import write_graphs
write_graphs(Path(sys.argv[1]), Path(sys.argv[2]))
"""
_EXPECTED = b"PyTorch was not found"


def write_tokenizer(source: Path, folder: Path) -> None:
    """Write `openvino_tokenizer.xml/.bin` and `openvino_detokenizer.xml/.bin`; padding on the left, as generation needs.

    Where this process has transformers already, or the other one fails, the graphs are written here; they are the same.
    Raises CheckpointError when the tokenizer cannot be converted.
    """
    if "transformers" in sys.modules or not _written_apart(source, folder):
        from ovround.exporters.openvino.tokenizer_graphs import write_graphs

        write_graphs(source, folder)


def _written_apart(source: Path, folder: Path) -> bool:
    """Whether a process without torch could write them; what its libraries say is passed on."""
    command = [sys.executable, "-I", "-c", _PROGRAM, str(source), str(folder), *sys.path]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
    except OSError:  # no interpreter of its own, as in a program that embeds Python
        return False
    if done.returncode:
        return False
    lines = [line for line in done.stderr.splitlines(keepends=True) if _EXPECTED not in line]
    sys.stderr.write(b"".join(lines).decode(errors="replace"))
    return True
