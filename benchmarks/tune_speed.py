"""Compares the speed of our tuner with auto-round's, for each block and at equal perplexity.

Both sides use the same model, quantisation scheme, calibration samples and threads, and both are compiled by torch or neither.
Each uses its own number of samples a step (auto-round 8, ours by recipe or `--batch-size`). The two sides take turns, each in
its own process, and medians are compared. Two figures are measured:

1. Seconds a block at the same number of steps: the time from the calibration samples to the last tuned block, divided by the
   number of blocks. On both sides libraries are loaded and texts are tokenised before. Our end-to-end pass is off. The
   perplexity of each side is reported too.
2. The fewest of our steps (from `--fewer`, on `--fewer-nsamples` samples) whose perplexity on every text is at most
   auto-round's with all its steps and samples, and the ratio of the times.

    python benchmarks/tune_speed.py MODEL --text T.txt ... --calibration C.txt ... [--bits 4] [--rounds 3] [--threads 1]

The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import peers
import quality

from ovround.checkpoint import open_checkpoint
from ovround.conversion.convert import convert
from ovround.measure.evaluation import evaluate_model
from ovround.models import from_config
from ovround.progress import Progress

Figures = dict[str, Any]


def tune(task: dict[str, Any]) -> Figures:
    """Run one conversion of ours in this process: seconds until the last block is tuned, and perplexities."""
    for library in ("ovround.exporters.openvino.package", "ovround.quant.passes.tuning"):  # that `convert` loads later
        importlib.import_module(library)
    setup = quality.Setup(
        tuple(map(Path, task["texts"])), tuple(map(Path, task["calibration"])), task["context"], task["nsamples"],
        task["iters"], None,
    )  # fmt: skip
    model = Path(task["model"])
    general = quality.options_for(model, task["bits"], task["group_size"], task["sym"], "signround", setup)
    options = replace(
        general,
        tuning=replace(general.tuning, end_to_end_steps=0, compile=task["compile"], batch_size=task["batch_size"]),
    )
    times: dict[str, float] = {}

    def watch(progress: Progress) -> None:
        if progress.stage == "check" or (progress.stage == "quantise" and progress.step == 0):
            times[progress.stage] = time.perf_counter()

    with tempfile.TemporaryDirectory() as scratch:
        convert(model, f"{scratch}/out", options, watch)
        scores = evaluate_model(f"{scratch}/out", setup.texts, context=setup.context)
    return {"tuning_s": times["quantise"] - times["check"], "perplexity": [score.perplexity for score in scores]}


def ours(arguments: argparse.Namespace, iters: int, nsamples: int) -> Figures:
    task = {
        "model": str(arguments.model), "texts": [str(path) for path in arguments.text],
        "calibration": [str(path) for path in arguments.calibration], "context": arguments.context,
        "nsamples": nsamples, "iters": iters, "bits": arguments.bits, "group_size": arguments.group_size,
        "sym": arguments.scheme == "sym", "compile": arguments.compile, "batch_size": arguments.batch_size,
    }  # fmt: skip
    return peers.measured([sys.executable, __file__, "--task", json.dumps(task)], arguments.threads)


def theirs(arguments: argparse.Namespace, setup: quality.Setup) -> Figures:
    """auto-round's own seconds of tuning, and the perplexity of its model."""
    sym = arguments.scheme == "sym"
    options = quality.options_for(arguments.model, arguments.bits, arguments.group_size, sym, "auto-round", setup)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        compiles = arguments.compile == "on"
        answer = quality.auto_round(arguments.model, out, options, setup, arguments.threads, compiles=compiles)
        scores = evaluate_model(str(out), setup.texts, context=setup.context)
    return {"tuning_s": answer["tuning_s"], "perplexity": [score.perplexity for score in scores]}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--calibration", type=Path, action="append", required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--scheme", choices=("sym", "asym"), default="sym")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--fewer", type=int, nargs="*", default=[2, 5, 10, 20, 50, 100])
    parser.add_argument("--fewer-nsamples", type=int, help="samples of those runs (default: --nsamples)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="samples a step of our tuner (default: the recipe's)")
    parser.add_argument("--compile", choices=("on", "off"), default="off", help="torch.compile, on both sides")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="where peers' environments are kept")
    return parser.parse_args()


def main() -> None:
    if sys.argv[1:2] == ["--task"]:
        print(json.dumps(tune(json.loads(sys.argv[2]))))
        return
    arguments = parse()
    setup = quality.Setup(
        tuple(arguments.text), tuple(arguments.calibration), arguments.context, arguments.nsamples, arguments.iters,
        arguments.cache,
    )  # fmt: skip
    blocks = from_config(open_checkpoint(arguments.model).config).config.num_hidden_layers
    mine, peer = [], []
    for number in range(arguments.rounds):
        mine.append(ours(arguments, arguments.iters, arguments.nsamples))
        peer.append(theirs(arguments, setup))
        a, b = mine[-1], peer[-1]
        print(
            f"round {number + 1}: ours {a['tuning_s'] / blocks:.2f} s a block, perplexity {_shown(a)}; "
            f"auto-round {b['tuning_s'] / blocks:.2f} s, {_shown(b)}",
            flush=True,
        )
    ratio = statistics.median(b["tuning_s"] / a["tuning_s"] for a, b in zip(mine, peer, strict=True))
    result = {"times_faster_a_block": ratio, "ours": mine, "auto_round": peer, "fewest": None}
    peer_s = statistics.median(b["tuning_s"] for b in peer)
    for iters in arguments.fewer:
        figures = ours(arguments, iters, arguments.fewer_nsamples or arguments.nsamples)
        reached = all(a <= b for a, b in zip(figures["perplexity"], peer[0]["perplexity"], strict=True))
        print(
            f"{iters} steps: {figures['tuning_s']:.1f} s, perplexity {_shown(figures)}{' reached' * reached}",
            flush=True,
        )
        if reached:
            result["fewest"] = {
                "iters": iters,
                "nsamples": arguments.fewer_nsamples or arguments.nsamples,
                "tuning_s": figures["tuning_s"],
                "times_fewer": peer_s / figures["tuning_s"],
            }
            break
    print(json.dumps(result))


def _shown(figures: Figures) -> str:
    return " / ".join(f"{value:.4f}" for value in figures["perplexity"])


if __name__ == "__main__":
    main()
