"""Checks what strangers bring: each kind of checkpoint of `stranger_inputs.py`, and real models, converted and compared.

    python benchmarks/strangers.py [--only TEXT] [--real FOLDER]

Each input is converted by the command line for both engines. The figure of an engine is the largest difference of a
log-probability from transformers in float32, over one text of random tokens; where weights are rounded on the way it is
only shown, else it must stay within the input's bound. `--real` names a folder of GGUF files: each is compared with what
transformers loads from that file, and the divergence (KL, nats a token) is shown beside. Prints a table and, last, one
JSON document.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stranger_gguf import GGUF_FILES
from stranger_inputs import STRANGERS, Stranger
from transformers import AutoModelForCausalLM

from ovround import LLM

ENGINES = ("openvino", "onnx")
TOKENS = 48


@dataclass(frozen=True, slots=True)
class Case:
    """What became of one input; `refused` is the command's error."""

    name: str
    seconds: float
    refused: str = ""
    openvino: float | None = None
    onnx: float | None = None
    kl_nats: float | None = None
    bound: float | None = None

    @property
    def passed(self) -> bool:
        worst = max(self.openvino or 0.0, self.onnx or 0.0)
        return not self.refused and (self.bound is None or worst <= self.bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the names to run")
    parser.add_argument("--real", type=Path, help="folder of GGUF files")
    arguments = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, build) in enumerate({**STRANGERS, **GGUF_FILES}.items()):
            if arguments.only in name:
                folder = Path(scratch) / str(number)
                folder.mkdir()
                cases.append(show(compared(name, build(folder), folder)))
        for path in sorted(arguments.real.glob("*.gguf")) if arguments.real else ():
            folder = Path(scratch) / path.stem
            folder.mkdir()
            cases.append(show(compared(path.name, real(path), folder)))
    print(json.dumps({"cases": [asdict(case) for case in cases]}))
    failed = [case.name for case in cases if not case.passed]
    assert not failed, failed


def real(path: Path) -> Stranger:
    """A published file as it is downloaded."""

    def load() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

    return Stranger(str(path), load, (), None)


def compared(name: str, stranger: Stranger, folder: Path) -> Case:
    """The input through `ovround convert`, then both engines beside the reference."""
    command = ["convert", stranger.model, str(folder / "out"), *stranger.options, "--quiet"]
    formats = [part for engine in ENGINES for part in ("--format", engine)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ovround", *command, *formats], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return Case(name, seconds, next((line for line in lines if line.startswith("error:")), lines[-1]))
    found = {engine: answers(folder / "out" / engine) for engine in ENGINES}
    ids = next(iter(found.values()))[0]
    with torch.no_grad():
        logits = stranger.reference()(torch.from_numpy(ids[None])).logits[0].float().numpy()
    gc.collect()
    wanted = log_softmax(logits)
    far = {engine: float(np.abs(ours[:, : wanted.shape[1]] - wanted).max()) for engine, (_, ours) in found.items()}
    ours = found[ENGINES[0]][1][:, : wanted.shape[1]]
    kl = float((np.exp(wanted) * (wanted - ours)).sum(1).mean())
    return Case(name, seconds, openvino=far["openvino"], onnx=far["onnx"], kl_nats=kl, bound=stranger.bound)


def answers(folder: Path) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Random token ids [T], and the folder's log-probabilities [T, V] of what follows each."""
    with LLM(folder, exact=True) as llm:
        ids = np.random.default_rng(0).integers(3, min(llm.vocab_size, 1000), TOKENS)
        return ids, log_softmax(np.array(llm.logits(ids[None])[0], np.float32))


def log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    shifted = logits - logits.max(1, keepdims=True)
    result: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def show(case: Case) -> Case:
    """Print the row of one input as soon as it is known."""
    if case.refused:
        print(f"| {case.name} | refused | {case.refused[:100]} | | {case.seconds:.1f} s |", flush=True)
        return case
    state = "equal" if case.bound and case.passed else "rounded" if case.bound is None else "DIFFERENT"
    print(
        f"| {case.name} | {state} | {case.openvino:.1e} / {case.onnx:.1e} | {case.kl_nats:.1e} | {case.seconds:.1f} s |",
        flush=True,
    )
    return case


if __name__ == "__main__":
    main()
