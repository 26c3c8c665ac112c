"""Compares decoding by the native operator with OpenVINO's own 4-bit kernels: speed and memory.

The model is converted into four folders, rounded to nearest or random because quality does not matter here: 4 bits and 2 bits
(run by OpenVINO and by the operator), 3 bits stored in 3 bits, and AQLM 2x8; embedding and head have 8 bits. A process of its
own loads each and keeps running. A round times the same steps in each process in turn, so that other work on the machine
affects all of them alike.

    OVROUND_NATIVE=1 pip install .
    python benchmarks/random_llama.py MODEL
    python benchmarks/native_decode.py MODEL [--rounds 10] [--threads 2]

Resident memory is the memory of a process after its answer, less the memory with only the libraries loaded. The last line
printed is one JSON document. `--check` asserts the bounds of the operator against OpenVINO's 4 bits: AQLM takes at most the
same time and 0.6 of the memory; 4, 3 and 2 bits take at most 0.7, 0.7 and 0.5 of the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ARMS: dict[str, tuple[list[str] | None, str]] = {  # options of convert (None: codebooks), and the kernel
    "4 bits": (["--bits", "4"], "engine"),
    "2 bits": (["--bits", "2"], "engine"),
    "4 bits native": (["--bits", "4"], "native"),
    "3 bits native": (["--bits", "3", "--native-weights"], "native"),
    "2 bits native": (["--bits", "2"], "native"),
    "AQLM 2x8 native": (None, "native"),
}
PROMPT, STEPS = 16, 8
WORKER = """
import json, sys, time
import numpy as np
from pathlib import Path
from ovround.runtime.engines import open_engine

def resident():
    text = Path("/proc/self/status").read_text()
    part = lambda name: int(text.split(name + ":")[1].split()[0]) * 1024
    return part("RssAnon") + part("RssFile")

folder, kernel, threads, prompt, steps = *sys.argv[1:3], *map(int, sys.argv[3:6])
import openvino
openvino.Core().available_devices
before = resident()
started = time.perf_counter()
engine = open_engine(Path(folder), threads=threads, kernel=kernel)
load_s = time.perf_counter() - started
ids = np.random.default_rng(0).integers(0, engine.vocab_size, prompt).tolist()
for line in sys.stdin:
    engine.reset()
    started = time.perf_counter()
    token = int(engine.prefill([ids])[0].argmax())
    first_s, times = time.perf_counter() - started, []
    for _ in range(steps):
        started = time.perf_counter()
        token = int(engine.decode([token])[0].argmax())
        times.append(time.perf_counter() - started)
    print(json.dumps({"first_s": first_s, "step_s": sorted(times)[steps // 2], "resident": resident() - before,
                      "load_s": load_s}), flush=True)
"""


def folders(model: Path, scratch: Path) -> dict[str, Path]:
    """The arms' folders; those that do not exist yet are converted."""
    made = {}
    for name, (options, _) in ARMS.items():
        folder = scratch / (f"{options[1]}-bits" if options else "AQLM-2x8")
        made[name] = folder
        if folder.exists():
            continue
        source, more = model, ["--recipe", "rtn", *(options or [])]
        if options is None:
            source, more = scratch / "aqlm", ["--lm-head-bits", "8", "--embedding-bits", "8"]
            if not source.exists():
                script = Path(__file__).with_name("random_aqlm.py")
                subprocess.run([sys.executable, script, model, source], check=True, stdout=subprocess.DEVNULL)
        command = [
            sys.executable,
            "-m",
            "ovround",
            "convert",
            source,
            folder,
            "--group-size",
            "128",
            *more,
        ]
        subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return made


def measure(made: dict[str, Path], rounds: int, threads: int, prompt: int) -> dict[str, list[dict[str, Any]]]:
    """The measurements of each arm's process in each round; a first round warms up and is not included."""
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), ARMS[name][1], str(threads), str(prompt), str(STEPS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name, folder in made.items()
    }  # fmt: skip
    measurements: dict[str, list[dict[str, Any]]] = {name: [] for name in made}
    try:
        for number in range(rounds + 1):
            for name, worker in workers.items():
                assert worker.stdin is not None
                assert worker.stdout is not None
                print("go", file=worker.stdin, flush=True)
                answer = json.loads(worker.stdout.readline())
                if number:
                    measurements[name].append(answer)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return measurements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens of the prompt before the timed steps")
    parser.add_argument(
        "--folders", type=Path, help="folder that keeps the converted folders (default: they are removed)"
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = folders(options.model, options.folders or Path(scratch))
        measurements = measure(made, options.rounds, options.threads, options.prompt)
    result: dict[str, Any] = {
        "rounds": options.rounds,
        "threads": options.threads,
        "prompt": options.prompt,
        "arms": {},
    }
    base = measurements["4 bits"]
    for name, answers in measurements.items():
        # a ratio is computed within a round, in which all arms have the same conditions
        ratio = {
            key: statistics.median(a[key] / b[key] for a, b in zip(answers, base, strict=True))
            for key in ("step_s", "first_s", "resident")
        }
        result["arms"][name] = {
            "step_ms": 1e3 * statistics.median(a["step_s"] for a in answers),
            "best_step_ms": 1e3 * min(a["step_s"] for a in answers),
            "first_ms": 1e3 * statistics.median(a["first_s"] for a in answers),
            "resident_mb": answers[-1]["resident"] / 1e6,
            "load_s": answers[-1]["load_s"],
            "step_ratio": ratio["step_s"], "first_ratio": ratio["first_s"], "resident_ratio": ratio["resident"],
        }  # fmt: skip
        print(name, {key: round(value, 3) for key, value in result["arms"][name].items()}, flush=True)
    if options.check:
        arms = result["arms"]
        assert arms["AQLM 2x8 native"]["step_ratio"] <= 1, arms
        assert arms["AQLM 2x8 native"]["resident_ratio"] <= 0.6, arms
        for name, most in (("4 bits native", 0.7), ("3 bits native", 0.7), ("2 bits native", 0.5)):
            assert arms[name]["step_ratio"] <= most, arms
    print(json.dumps(result))


if __name__ == "__main__":
    main()
