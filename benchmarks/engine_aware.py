"""Perplexity in each engine's default mode, with and without tuning for the engine's 8-bit activations.

Each model is converted once without it (`--activation-engine none`) for both engines, and once with it for each engine.
Every folder is scored in the engine's default mode and in exact mode; the difference is the cost of the engine's arithmetic.

`--outliers K` makes a few features of every norm K times larger, and the weights that read them K times smaller. The model's
output stays the same, but its activations then have outliers as large models have them: features that stretch a shared 8-bit
scale.

    python benchmarks/engine_aware.py MODEL ... --text T.txt ... --calibration C.txt ... [--bits 8] [--outliers 30]

The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ovround.conversion.convert import convert
from ovround.measure.evaluation import evaluate_model
from ovround.options.convert_options import ConvertOptions

ENGINES = ("openvino", "onnx")
OUTLIERS = 4  # features of each norm
READERS = {  # in a Llama's block, the linear layers that read the output of each norm
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """Perplexity by text of one folder of `engine`, tuned for `activation_engine`: in the default mode, and exact."""

    model: str
    engine: str
    activation_engine: str
    default: list[float]
    exact: list[float]


def with_outliers(model: Path, out: Path, factor: float) -> Path:
    """Copy the Llama checkpoint `model` to `out` with a few features of every norm `factor` times larger; readers compensate."""
    shutil.copytree(model, out)
    generator = np.random.default_rng(5)
    for file in sorted(out.glob("*.safetensors")):
        tensors = load_file(file)
        for name in [name for name in tensors if name.endswith(tuple(f"{norm}.weight" for norm in READERS))]:
            block, norm = name.removesuffix(".weight").rsplit(".", 1)
            chosen = torch.from_numpy(generator.choice(tensors[name].numel(), OUTLIERS, replace=False))
            tensors[name][chosen] *= factor
            for reader in READERS[norm]:
                tensors[f"{block}.{reader}.weight"][:, chosen] /= factor
        save_file(tensors, file, metadata={"format": "pt"})
    return out


def measured(name: str, model: Path, arguments: argparse.Namespace, scratch: Path) -> Iterator[Row]:
    general: dict[str, Any] = {
        "bits": arguments.bits, "group_size": arguments.group_size, "recipe": arguments.recipe,
        "seqlen": arguments.context, "calibration": tuple(arguments.calibration),
    }  # fmt: skip
    for activation_engine, formats in (("none", ENGINES), *((engine, (engine,)) for engine in ENGINES)):
        out = scratch / activation_engine
        folders = convert(
            model, out, ConvertOptions(**general, formats=formats, activation_engine=activation_engine)
        ).folders
        for engine, folder in zip(formats, folders, strict=True):
            scores = [
                [
                    score.perplexity
                    for score in evaluate_model(str(folder), arguments.text, context=arguments.context, exact=exact)
                ]
                for exact in (False, True)
            ]
            yield Row(name, engine, activation_engine, *scores)
        shutil.rmtree(out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--calibration", type=Path, action="append", required=True)
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--recipe", default="light")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--outliers", type=float, default=1.0, help="how much larger a few features are made")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    rows: list[Row] = []
    print("| model | engine | tuned for | default mode | exact |\n|---|---|---|---|---|")
    for source in arguments.models:
        with tempfile.TemporaryDirectory() as scratch:
            model = source
            if arguments.outliers != 1:
                model = with_outliers(source, Path(scratch) / "model", arguments.outliers)
            for row in measured(source.name, model, arguments, Path(scratch)):
                rows.append(row)
                print(
                    f"| {row.model} | {row.engine} | {row.activation_engine} | {_shown(row.default)} | {_shown(row.exact)} |",
                    flush=True,
                )
    print(json.dumps([{name: getattr(row, name) for name in Row.__slots__} for row in rows]))


def _shown(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    main()
