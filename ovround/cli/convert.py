"""`ovround convert`: a checkpoint in, a tuned model for an engine out."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ovround.cli.option_flags import flag_parameters, options_from, with_flags
from ovround.cli.shared_flags import Json, Quiet
from ovround.options.convert_options import ConvertOptions

NAME = "convert"


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder, quantised or not, GGUF file, hub name (org/model[:Q4_K_M][@revision]), or `demo`."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; several formats go to OUT/<format>.")],
    memory_limit: Annotated[
        str | None,
        typer.Option(
            help="Memory limit, such as 4GB: activations move to files beside OUT; default: none.",
            rich_help_panel="Budget",
        ),
    ] = None,
    tuning_time: Annotated[
        str | None,
        typer.Option(
            "--time",
            help="Time near which tuning ends, such as 90s, 10min or 1h30m: chooses those of --iters, --nsamples and --seqlen "
            "that are not given; default: none.",
            rich_help_panel="Tuning",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Quantise MODEL with SignRound, or take its integers where it is quantised, and write it for an engine or as a checkpoint."""
    options = options_from(given)
    from ovround.cli.plan_table import print_plan
    from ovround.cli.printing import megabytes, print_json, print_table
    from ovround.cli.progress import ProgressDisplay
    from ovround.conversion.convert import convert
    from ovround.conversion.model_card import fitted_groups
    from ovround.quant.distributed.launch import Launch
    from ovround.quant.plan_file import plan_as_json
    from ovround.tensors.scheme import DEFAULT_GROUP_SIZES

    started = time.monotonic()
    quiet = quiet or not Launch.from_environment().is_main
    with ProgressDisplay(f"opening {model}", quiet=quiet) as display:
        conversion = convert(model, out, options, display, memory_limit=memory_limit, time=tuning_time)
    elapsed_s = time.monotonic() - started
    if not conversion.folders:
        return  # the first process writes and prints
    manifest = conversion.manifests[0]
    if json:
        print_json(
            {
                "folders": [str(folder) for folder in conversion.folders],
                "elapsed_s": round(elapsed_s, 3),
                "weight_bytes": sum(weight.size_bytes for weight in manifest.weights),
                "quality": dataclasses.asdict(manifest.quality) if manifest.quality else None,
                "samples": dataclasses.asdict(manifest.samples) if manifest.samples else None,
                "plan": plan_as_json(conversion.plan)["modules"],
                "budget": dataclasses.asdict(conversion.allocation) if conversion.allocation else None,
                "notes": list(manifest.notes),
                "source_way": manifest.source_way,
                "source_types": [dataclasses.asdict(entry) for entry in manifest.source_types],
                "blocks": [dataclasses.asdict(block) for block in manifest.blocks],
            }
        )
        return
    for folder, written in zip(conversion.folders, conversion.manifests, strict=True):
        size = sum(record.size_bytes for record in written.files.values())
        typer.echo(f"{folder}: {written.format}, {megabytes(size)} MB, {elapsed_s:.1f} s")
    for inputs, size in fitted_groups(manifest).items():
        typer.echo(f"group size {size} for weights of {inputs} inputs, which {DEFAULT_GROUP_SIZES[0]} does not divide")
    if manifest.source_way == "retune":
        typer.echo("retune: the source is the numbers that the GGUF file's integers stand for")
    if manifest.source_way == "keep":
        typer.echo("keep: the GGUF file's integers, or the nearest grid that the engine computes with:")
        print_table(
            ["type", "tensors", "grid", "error"],
            [[entry.type, entry.tensors, entry.grid, f"{entry.relative_error:.5f}"] for entry in manifest.source_types],
        )
    unreached = sum(len(block.unreached) for block in manifest.blocks)
    if unreached:
        typer.echo(
            f"warning: no calibration token reached {unreached} expert(s); they are rounded to nearest", err=True
        )
        typer.echo("hint: more text, or more of it: --calibration, --nsamples", err=True)
    if options.budget or options.plan:
        print_plan(conversion.plan, conversion.allocation)
    quality = manifest.quality
    if quality is not None:
        change = quality.perplexity_quantised / quality.perplexity_original - 1
        typer.echo(
            f"held-out calibration text: perplexity {quality.perplexity_original:.3f} -> "
            f"{quality.perplexity_quantised:.3f} ({change:+.2%}), KL {quality.kl_nats:.4f} nats"
        )


with_flags(command, flag_parameters(ConvertOptions))
