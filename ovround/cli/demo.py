"""`ovround demo`: the whole job on the model that ships with ovround, rounded and tuned, on both engines, as one table."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ovround.cli.shared_flags import Json, Quiet
from ovround.cli.working import Working, say
from ovround.options.bits import parse_bits

NAME = "demo"
_BITS, _GROUP_SIZE, _WINDOWS, _SEQLEN = 4, 64, 64, 128
_PROMPT = "The with statement is used to"


def command(
    out: Annotated[Path | None, typer.Argument(help="Folder for the tuned models; default: a temporary one.")] = None,
    bits: Annotated[
        int, typer.Option(parser=parse_bits, metavar="BITS", help="Bits of a weight: 2, 3, 4 or 8.")
    ] = _BITS,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert the built-in model to OpenVINO and ONNX, run both, and print what was measured. No network; a minute or two."""
    from ovround.checkpoint.locate import DEMO_FOLDER
    from ovround.cli.printing import print_json, print_table
    from ovround.cli.progress import ProgressDisplay
    from ovround.conversion.convert import convert
    from ovround.measure.bench_options import BenchOptions
    from ovround.measure.benchmark import bench
    from ovround.measure.evaluation import evaluate_model
    from ovround.options.convert_options import ConvertOptions
    from ovround.runtime import LLM

    held_out = (DEMO_FOLDER / "heldout.txt",)
    original = ConvertOptions(formats=("openvino", "onnx"), bits=16)
    rounded = ConvertOptions(formats=("openvino", "onnx"), bits=bits, group_size=_GROUP_SIZE, recipe="rtn")
    tuned = dataclasses.replace(rounded, recipe="default", nsamples=_WINDOWS, seqlen=_SEQLEN)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, options in (("original", original), ("rounded to nearest", rounded), ("SignRound", tuned)):
            if not quiet:
                say(f"{name}:")
            folder = out if out is not None and name == "SignRound" else Path(scratch) / name
            with ProgressDisplay("opening demo", quiet=quiet) as display:
                conversion = convert("demo", folder, options, display)
            size = sum(weight.size_bytes for weight in conversion.manifests[0].weights)
            for converted in conversion.folders:
                with Working(f"scoring and timing it in {converted.name}", quiet=quiet):
                    (score,) = evaluate_model(str(converted), held_out, reference="demo", context=_SEQLEN)
                    speed = bench(converted, BenchOptions(prompt_tokens=64, new_tokens=32, repeat=3))
                rows.append(
                    {
                        "weights": name, "engine": converted.name, "weight_bytes": size, "perplexity": score.perplexity,
                        "kl_nats": score.kl_nats, "top1_agreement": score.top1_agreement,
                        "time_to_first_token_s": speed.time_to_first_token_median_s,
                        "time_per_output_token_s": speed.time_per_output_token_median_s,
                    }
                )  # fmt: skip
        with LLM(conversion.folders[0]) as llm:
            answer = llm.generate(_PROMPT, max_new_tokens=32).text
    if json:
        print_json({"rows": rows, "prompt": _PROMPT, "answer": answer})
        return
    print_table(
        ["weights", "engine", "MB", "perplexity", "KL nats", "top-1 agrees", "first token ms", "per token ms"],
        [
            [
                row["weights"], row["engine"], f"{_number(row['weight_bytes']) / 1e6:.2f}", f"{row['perplexity']:.3f}",
                f"{row['kl_nats']:.5f}", f"{row['top1_agreement']:.2%}",
                f"{_number(row['time_to_first_token_s']) * 1e3:.2f}", f"{_number(row['time_per_output_token_s']) * 1e3:.2f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    typer.echo(f"\n{_PROMPT}{answer}")


def _number(value: object) -> float:
    return float(str(value))
