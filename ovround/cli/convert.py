"""`ovround convert`: a checkpoint in, a tuned model for an engine out."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from ovround.config import RECIPES, ConvertOptions, LayerRule

NAME = "convert"
DEFAULTS = ConvertOptions()


def command(
    model: Annotated[str, typer.Argument(help="Model folder, hub name (org/model or org/model@revision), or `demo`.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; several formats go to OUT/<format>.")],
    format: Annotated[  # noqa: A002  the flag's own name
        list[str], typer.Option("--format", help="openvino or onnx; repeatable.")
    ] = list(DEFAULTS.formats),  # noqa: B006  Typer copies it
    bits: Annotated[int, typer.Option(help="2, 3, 4, 8, or 16 to leave weights unquantised.")] = DEFAULTS.bits,
    group_size: Annotated[
        int, typer.Option(help="Inputs that share a scale: 16, 32, 64, 128, 256, or -1 for a whole row.")
    ] = DEFAULTS.group_size,
    sym: Annotated[bool, typer.Option("--sym/--asym", help="Symmetric, or with zero points.")] = DEFAULTS.sym,
    recipe: Annotated[str, typer.Option(help=f"How long to tune: {', '.join(RECIPES)}.")] = DEFAULTS.recipe,
    iters: Annotated[int | None, typer.Option(help="Tuning steps a block, instead of the recipe's.")] = None,
    nsamples: Annotated[
        int | None, typer.Option(help="Calibration windows to tune on, instead of the recipe's.")
    ] = None,
    seqlen: Annotated[
        int | None, typer.Option(help="Tokens a window; default: the model's context, at most 2048.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Windows a tuning step.")] = DEFAULTS.batch_size,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="Text to tune on, .txt or .jsonl with `text`; repeatable. Default: built in."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = DEFAULTS.seed,
    lm_head_bits: Annotated[
        int | None, typer.Option(help="Bits of the output head; default 8 (16 with --bits 16).")
    ] = None,
    embedding_bits: Annotated[
        int | None, typer.Option(help="Bits of the embedding; default 8 (16 with --bits 16).")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Exception, REGEX=bits:8,group_size:32,sym:false; repeatable, the last match wins."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read every weight back and compare.")
    ] = DEFAULTS.verify,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Quantise MODEL with SignRound and write it for OpenVINO or ONNX Runtime."""
    options = ConvertOptions(
        formats=tuple(format), bits=bits, group_size=group_size, sym=sym, recipe=recipe, iters=iters, nsamples=nsamples,
        seqlen=seqlen, batch_size=batch_size, calibration=tuple(calibration or ()), seed=seed, lm_head_bits=lm_head_bits,
        embedding_bits=embedding_bits, layers=tuple(LayerRule.parse(rule) for rule in layer or ()), verify=verify,
    )  # fmt: skip
    from ovround.cli.printing import megabytes, print_json
    from ovround.cli.progress import ProgressDisplay
    from ovround.conversion import convert

    started = time.monotonic()
    with ProgressDisplay(quiet=quiet) as display:
        conversion = convert(model, out, options, display)
    elapsed_s = time.monotonic() - started
    manifest = conversion.manifests[0]
    if json:
        print_json(
            {
                "folders": [str(folder) for folder in conversion.folders],
                "elapsed_s": round(elapsed_s, 3),
                "weight_bytes": sum(weight.size_bytes for weight in manifest.weights),
                "quality": dataclasses.asdict(manifest.quality) if manifest.quality else None,
                "blocks": [dataclasses.asdict(block) for block in manifest.blocks],
            }
        )
        return
    for folder, one in zip(conversion.folders, conversion.manifests, strict=True):
        size = sum(record.size_bytes for record in one.files.values())
        typer.echo(f"{folder}: {one.target}, {megabytes(size)} MB, {elapsed_s:.1f} s")
    quality = manifest.quality
    if quality is not None:
        change = quality.perplexity_quantised / quality.perplexity_original - 1
        typer.echo(
            f"held-out calibration text: perplexity {quality.perplexity_original:.3f} -> "
            f"{quality.perplexity_quantised:.3f} ({change:+.2%}), KL {quality.kl_nats:.4f} nats"
        )
