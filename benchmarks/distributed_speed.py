"""Compares a conversion by one process with the same conversion by several, each with the same number of threads.

The sides take turns, and medians are compared. The time of a tuned token is the time from the check of the checkpoint to the
last tuned block, divided by blocks x steps x samples a step x tokens a sample; there is no end-to-end pass. The perplexity and
divergence of both sides on the same held-out samples are reported too. `cpu_s` is the CPU time of the first process: on a
shared machine it shows what several processes would save on free processors.

    python benchmarks/distributed_speed.py demo [--processes 2] [--threads 1] [--rounds 3] [--iters 200] [--device cpu]

The last line printed is one JSON document. `ratio` is the time of one process divided by the time of several, and `cpu_ratio`
is the same ratio of `cpu_s`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.progress import Progress

Figures = dict[str, Any]


def tune(task: dict[str, Any]) -> Figures | None:
    """Run one conversion in every process; the first process returns the figures, the others return None."""
    tuning = TuningOptions(batch_size=task["batch_size"], end_to_end_steps=0)
    options = ConvertOptions(**task["options"], formats=("onnx",), tuning=tuning)
    times: dict[str, tuple[float, float]] = {}

    def watch(progress: Progress) -> None:
        if progress.stage == "check" or (progress.stage == "quantise" and progress.step == 0):
            times[progress.stage] = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as scratch:
        conversion = convert(task["model"], f"{scratch}/out", options, watch)
    if not conversion.folders:
        return None
    manifest = conversion.manifests[0]
    quality = manifest.quality
    assert quality is not None
    length = task["options"]["seqlen"]
    tokens = sum(block.steps for block in manifest.blocks) * task["batch_size"] * length
    tuning_s, cpu_s = (end - start for start, end in zip(times["check"], times["quantise"], strict=True))
    return {
        "tuning_s": tuning_s,
        "s_per_token": tuning_s / tokens,
        "cpu_s": cpu_s,
        "perplexity": quality.perplexity_quantised,
        "kl_nats": quality.kl_nats,
        "loss_after": [block.loss_after for block in manifest.blocks],
    }


def measured(task: dict[str, Any], processes: int, threads: int) -> Figures:
    """The figures of a conversion by `processes` processes."""
    words = [sys.executable]
    if processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--"]
    done = subprocess.run(
        [*words, __file__, "--task", json.dumps(task)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    if sys.argv[1:2] == ["--task"]:
        figures = tune(json.loads(sys.argv[2]))
        if figures is not None:
            print(json.dumps(figures))
        return
    arguments = parse()
    names = ("bits", "group_size", "iters", "nsamples", "seqlen", "device")
    options = {name: getattr(arguments, name) for name in names}
    task = {"model": arguments.model, "batch_size": arguments.batch_size, "options": options}
    single, several = [], []
    for number in range(arguments.rounds):
        single.append(measured(task, 1, arguments.threads))
        several.append(measured(task, arguments.processes, arguments.threads))
        a, b = single[-1], several[-1]
        print(
            f"round {number + 1}: one process {a['tuning_s']:.1f} s ({a['cpu_s']:.1f} computing), perplexity {a['perplexity']:.4f}, "
            f"KL {a['kl_nats']:.4f}; {arguments.processes} processes {b['tuning_s']:.1f} s ({b['cpu_s']:.1f}), "
            f"{b['perplexity']:.4f}, {b['kl_nats']:.4f}",
            flush=True,
        )
    ratio, cpu_ratio = (
        statistics.median(a[name] / b[name] for a, b in zip(single, several, strict=True))
        for name in ("tuning_s", "cpu_s")
    )
    print(
        json.dumps(
            {
                "ratio": ratio,
                "cpu_ratio": cpu_ratio,
                "processes": arguments.processes,
                "one": single,
                "several": several,
            }
        )
    )


if __name__ == "__main__":
    main()
