"""Measures how much of the loss of rounding to nearest tuning recovers, beside auto-round on the same samples.

For every model, group size and symmetry, `--methods` are compared: the original, rounding to nearest, SignRound, variants of
it, arms with codebooks (`--codebooks` sets their layout) and auto-round in its own environment. Ours are converted to OpenVINO
and evaluated in exact mode. Auto-round gets exactly the same token samples, and the same function evaluates its de-quantised
weights. Embedding and head stay in float. So do layers with a dimension that 32 does not divide, because auto-round does not
quantise those.

    python benchmarks/quality.py MODEL ... --text T.txt ... --calibration C.txt ... --results cells.jsonl

Cells that are already in --results are not computed again. The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch

from ovround.artifact.manifest import Manifest
from ovround.checkpoint import open_checkpoint
from ovround.conversion.convert import convert
from ovround.measure.evaluation import evaluate_model
from ovround.models import from_config
from ovround.options.convert_options import DEFAULT_CODEBOOKS, ConvertOptions, resolved_recipe
from ovround.options.layer_rule import LayerRule
from ovround.options.tuning_options import TuningOptions
from ovround.quant.calibration.samples import calibrate
from ovround.source_tokenizer import load_tokenizer
from ovround.tensors.scheme import Codebooks

# The methods beside the original and the peers: our options that differ from the default recipe. `blocks` is the default
# without the end-to-end pass; each part of the tuner has a row that differs from `blocks` in that part alone.
ARMS: dict[str, dict[str, Any]] = {
    "rtn": {"recipe": "rtn"},
    "light": {"recipe": "light"},
    "signround": {},
    "blocks": {"tuning": TuningOptions(end_to_end_steps=0)},
    "paper": {"tuning": TuningOptions(end_to_end_steps=0, scales="clipped", robust_loss=False)},
    "clipped": {"tuning": TuningOptions(end_to_end_steps=0, scales="clipped")},
    "sign": {"tuning": TuningOptions(end_to_end_steps=0, optimizer="sign")},
    "compensated": {"tuning": TuningOptions(end_to_end_steps=0, initial_grid="compensated")},
    "extremes": {"tuning": TuningOptions(end_to_end_steps=0, initial_grid="extremes")},
    "search": {"tuning": TuningOptions(end_to_end_steps=0, initial_grid="search")},
    "plain-loss": {"tuning": TuningOptions(end_to_end_steps=0, robust_loss=False)},
    "robust-loss": {"tuning": TuningOptions(end_to_end_steps=0, robust_loss=True)},
    "block-group-2": {"tuning": TuningOptions(end_to_end_steps=0, block_group_size=2)},
    "keep-norms": {"tuning": TuningOptions(norms=False)},
    "labels-10": {"tuning": TuningOptions(label_share=0.1)},
    "labels-20": {"tuning": TuningOptions(label_share=0.2)},
    "labels-50": {"tuning": TuningOptions(label_share=0.5)},
    "embeddings-rounded": {"lm_head_bits": 4, "embedding_bits": 4, "tuning": TuningOptions(embeddings="rounded")},
    "embeddings-tuned": {"lm_head_bits": 4, "embedding_bits": 4},
    "batch-8": {"tuning": TuningOptions(batch_size=8)},
    "openvino-aware": {"activation_engine": "openvino"},
    "onnx-aware": {"activation_engine": "onnx"},
    "best": {"recipe": "best", "nsamples": 512},
    "signround-pv": {"pv": True},
    "aqlm": {"formats": ("aqlm",)},
    "aqlm-fixed-codes": {"formats": ("aqlm",), "tuning": TuningOptions(learn_codes=False)},
    "aqlm-pv": {"formats": ("aqlm",), "pv": True},
}
PEER_ARMS = {"auto-round": (200, 128), "auto-round-best": (1000, 512)}  # steps and samples of auto-round's own recipes
METHODS = ("original", *ARMS, *PEER_ARMS)
MAIN = ("original", "rtn", "signround", "auto-round")
SYM = {"sym": (True,), "asym": (False,), "both": (True, False)}


@dataclass(frozen=True, slots=True)
class Cell:
    """One model, quantisation scheme and method: perplexity and KL(original || this) in nats by text, and seconds of tuning."""

    model: str
    bits: int
    group_size: int
    sym: bool
    method: str
    perplexity: dict[str, float]
    elapsed_s: float
    kl_nats: dict[str, float] = field(default_factory=dict)
    top1_agreement: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    bits_a_weight: float | None = None  # of the linear layers, with scales, zero points and codebooks

    @property
    def key(self) -> tuple[str, int, int, bool, str]:
        return self.model, self.bits, self.group_size, self.sym, self.method


@dataclass(frozen=True, slots=True)
class Setup:
    """Settings that all cells of a run share."""

    texts: tuple[Path, ...]
    calibration: tuple[Path, ...]
    context: int
    nsamples: int
    iters: int
    cache: Path | None
    divergence: bool = False
    codebooks: Codebooks = DEFAULT_CODEBOOKS  # of the arms aqlm


def options_for(model: Path, bits: int, group_size: int, sym: bool, method: str, setup: Setup) -> ConvertOptions:
    """The options of one cell's conversion; layers that 32 does not divide, embedding and head stay in float."""
    decoder = from_config(open_checkpoint(model).config)
    shapes = decoder.tensors(0)
    odd = [name for name in decoder.linears(0) if any(size % 32 for size in shapes[f"{name}.weight"])]
    rules = tuple(LayerRule(f"{name.rpartition('.')[2]}$", bits=16) for name in odd)
    iters, nsamples = PEER_ARMS.get(method, (setup.iters, setup.nsamples))
    general = {
        "bits": bits, "group_size": group_size, "sym": sym, "seqlen": setup.context, "nsamples": nsamples,
        "calibration": setup.calibration, "lm_head_bits": 16, "embedding_bits": 16, "layers": rules,
    }  # fmt: skip
    arm = ARMS.get(method, {})
    if "aqlm" in arm.get("formats", ()):
        general["codebooks"] = setup.codebooks
        del general["bits"]
    return ConvertOptions(**{**general, **({} if "recipe" in arm else {"iters": iters}), **arm})


def measure(model: Path, bits: int, group_size: int, sym: bool, method: str, setup: Setup) -> Cell:
    """Convert one cell's model into a temporary folder and score it."""
    options = options_for(model, bits, group_size, sym, method, setup)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        started, manifest = time.monotonic(), None
        if method == "original":
            out = model
        elif method in PEER_ARMS:
            auto_round(model, out, options, setup)
        else:
            manifest = convert(model, out, options).manifests[0]
        elapsed_s = time.monotonic() - started
        reference = str(model) if setup.divergence and out != model else None
        scores = evaluate_model(str(out), setup.texts, context=setup.context, reference=reference)
    by_text = {text.name: score for text, score in zip(setup.texts, scores, strict=True)}
    return Cell(
        model.name, bits, group_size, sym, method,
        {text: score.perplexity for text, score in by_text.items()},
        elapsed_s,
        {text: score.kl_nats for text, score in by_text.items() if score.kl_nats is not None},
        {text: score.top1_agreement for text, score in by_text.items() if score.top1_agreement is not None},
        {text: score.accuracy for text, score in by_text.items()},
        None if manifest is None else bits_a_weight(manifest),
    )  # fmt: skip


def bits_a_weight(manifest: Manifest) -> float:
    """Bits a weight of the quantised weights: packed codes, scales, zero points and codebooks."""
    weights = [record for record in manifest.weights if record.group_size]
    return 8 * sum(record.size_bytes for record in weights) / sum(math.prod(record.shape) for record in weights)


def auto_round(
    model: Path, out: Path, options: ConvertOptions, setup: Setup, threads: int = 1, compiles: bool = False
) -> dict[str, Any]:
    """Run auto-round 0.16.1 on the same samples (our held-out ones included), 8 a step, its default; the worker's answer."""
    decoder = from_config(open_checkpoint(model).config)
    config = decoder.config
    samples = calibrate(load_tokenizer(model), options, config.max_position_embeddings, config.vocab_size).samples
    tokens = out.parent / "tokens.npy"
    np.save(tokens, samples)
    return peers.run(
        "auto-round", "auto_round_tune", cache=setup.cache, threads=threads, model=str(model.resolve()), out=str(out),
        tokens_file=str(tokens), bits=options.bits, group_size=options.group_size,
        sym=options.sym, iters=resolved_recipe(options).iters,
        seed=options.seed, torch_compile=compiles,
    )  # fmt: skip


def recovered(cells: Sequence[Cell], text: str) -> float | None:
    """The share of rounding's rise in log-perplexity that tuning recovered; `cells` is (original, rtn, tuned)."""
    original, rtn, tuned = (math.log(cell.perplexity[text]) for cell in cells)
    return (rtn - tuned) / (rtn - original) if rtn > original else None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--calibration", type=Path, action="append", required=True)
    parser.add_argument("--bits", type=int, nargs="+", default=[4])
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--scheme", choices=SYM, default="both")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--divergence", action="store_true", help="measure KL(original || quantised) too; takes twice the time"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=MAIN, help="methods to measure")
    parser.add_argument(
        "--codebooks", type=Codebooks.parse, default=DEFAULT_CODEBOOKS, metavar="COUNTxBITS:VECTOR", help="of the arms aqlm",
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, help="where peers' environments are kept")
    parser.add_argument("--results", type=Path, help="a .jsonl file of finished cells to continue")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    setup = Setup(
        tuple(arguments.text), tuple(arguments.calibration), arguments.context, arguments.nsamples, arguments.iters,
        arguments.cache, arguments.divergence, arguments.codebooks,
    )  # fmt: skip
    done: dict[tuple[str, int, int, bool, str], Cell] = {}
    if arguments.results and arguments.results.is_file():
        for line in arguments.results.read_text().splitlines():
            cell = Cell(**json.loads(line))
            done[cell.key] = cell
    schemes = [(b, g, s) for b in arguments.bits for g in arguments.group_sizes for s in SYM[arguments.scheme]]
    columns = " | ".join(f"{path.name} | recovered | accuracy kept | top-1" for path in setup.texts)
    print(f"| model | bits | group | symmetry | method | bits a weight | {columns} |")
    print("|---" * (6 + 4 * len(setup.texts)) + "|")
    for model in arguments.models:
        for bits, group_size, sym in schemes:
            row = {}
            for method in METHODS:
                key = (
                    (model.name, 0, 0, True, method)
                    if method == "original"
                    else (model.name, bits, group_size, sym, method)
                )
                if key not in done and method not in arguments.methods:
                    continue
                if key not in done:
                    done[key] = measure(model, *(key[1:4] if method != "original" else (4, -1, True)), method, setup)
                    if method == "original":
                        done[key] = dataclasses.replace(done[key], bits=0, group_size=0)
                    if arguments.results:
                        with arguments.results.open("a") as file:
                            file.write(json.dumps(dataclasses.asdict(done[key])) + "\n")
                row[method] = done[key]
            print_rows(row, setup)
    cells = list(done.values())
    lost = not_below(cells, "signround", "rtn")
    print(
        json.dumps(
            {
                "cells": [dataclasses.asdict(cell) for cell in cells],
                "not_below_rtn": lost,
                "against_auto_round": compared(cells, "signround", "auto-round"),
                "best_against_auto_round_best": compared(cells, "best", "auto-round-best"),
            }
        )
    )


def accuracy_kept(original: Cell | None, cell: Cell, text: str) -> float | None:
    """Next-token accuracy as a share of the original's; None if one of the cells has no accuracy."""
    if original is None or text not in cell.accuracy or not original.accuracy.get(text):
        return None
    return cell.accuracy[text] / original.accuracy[text]


def print_rows(row: dict[str, Cell], setup: Setup) -> None:
    """Print one line for each method: for each text, perplexity and the recovered share of rounding's loss."""
    for method, cell in row.items():
        shown = []
        for text in (path.name for path in setup.texts):
            known = "original" in row and "rtn" in row and method not in ("original", "rtn")
            share = recovered((row["original"], row["rtn"], cell), text) if known else None
            kept = accuracy_kept(row.get("original"), cell, text)
            agreement = cell.top1_agreement.get(text)
            shown += [f"{cell.perplexity[text]:.3f}", _share(share), _share(kept), _share(agreement)]
        scheme = "-" if method == "original" else f"{cell.bits} | {cell.group_size} | {'sym' if cell.sym else 'asym'}"
        shown.insert(0, "-" if cell.bits_a_weight is None else f"{cell.bits_a_weight:.2f}")
        print(
            f"| {cell.model} | {scheme if scheme != '-' else '- | - | -'} | {method} | {' | '.join(shown)} |",
            flush=True,
        )


def losses(cells: Sequence[Cell], method: str) -> dict[tuple[str, int, int, bool, str], float]:
    """Rise of log-perplexity over the original's by (model, bits, group, symmetry, text), if the original was measured."""
    originals = {
        (cell.model, text): value for cell in cells for text, value in cell.perplexity.items() if not cell.bits
    }
    return {
        (*cell.key[:4], text): math.log(value / originals[cell.model, text])
        for cell in cells
        if cell.method == method
        for text, value in cell.perplexity.items()
        if (cell.model, text) in originals
    }


def not_below(cells: Sequence[Cell], method: str, baseline: str) -> list[str]:
    """The cells in which the loss of `method` is not below that of `baseline`."""
    ours, theirs = losses(cells, method), losses(cells, baseline)
    return [" ".join(map(str, key)) for key in ours if key in theirs and ours[key] >= theirs[key]]


def kl_ratio(cells: Sequence[Cell], method: str, baseline: str, bits: int) -> float | None:
    """Summed divergence of `method` as a share of `baseline`'s, over the cells in which both were measured."""
    divergence = {
        name: {
            (*cell.key[:4], text): value
            for cell in cells
            if cell.method == name
            for text, value in cell.kl_nats.items()
        }
        for name in (method, baseline)
    }
    both = [key for key in divergence[method] if key in divergence[baseline] and key[1] == bits]
    return (
        sum(divergence[method][key] for key in both) / sum(divergence[baseline][key] for key in both) if both else None
    )


def compared(cells: Sequence[Cell], method: str, baseline: str) -> dict[str, dict[str, float | int | list[str] | None]]:
    """By bits: the common cells, the number that `method` wins, and its mean loss as a share of `baseline`'s."""
    ours, theirs = losses(cells, method), losses(cells, baseline)
    result: dict[str, dict[str, float | int | list[str] | None]] = {}
    for bits in sorted({key[1] for key in ours}):
        both = [key for key in ours if key in theirs and key[1] == bits]
        if both:
            result[str(bits)] = {
                "cells": len(both),
                "won": sum(ours[key] < theirs[key] for key in both),
                "loss_ratio": sum(ours[key] for key in both) / sum(theirs[key] for key in both),
                "kl_ratio": kl_ratio(cells, method, baseline, bits),
                "lost": [" ".join(map(str, key)) for key in both if ours[key] >= theirs[key]],
            }
    return result


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


if __name__ == "__main__":
    main()
