"""`ovround convert`: a checkpoint in, a tuned model for an engine out."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from ovround.artifact.manifest import FORMATS
from ovround.options.convert_options import RECIPES, ConvertOptions, LayerRule, parse_milliseconds, parse_size

NAME = "convert"
DEFAULTS = ConvertOptions()


def command(
    model: Annotated[
        str, typer.Argument(help="Model folder, quantised or not, hub name (org/model[@revision]), or `demo`.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; several formats go to OUT/<format>.")],
    format: Annotated[  # noqa: A002  the flag's own name
        list[str], typer.Option("--format", help=f"{', '.join(FORMATS)}; repeatable.")
    ] = list(DEFAULTS.formats),  # noqa: B006  Typer copies it
    method: Annotated[
        str | None,
        typer.Option(help="signround: integer grids; aqlm: additive codebooks, default for --format aqlm."),
    ] = None,
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
    batch_size: Annotated[int | None, typer.Option(help="Windows a tuning step, instead of the recipe's.")] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="Text to tune on, .txt or .jsonl with `text`; repeatable. Default: built in."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = DEFAULTS.seed,
    lm_head_bits: Annotated[
        int | None, typer.Option(help="Bits of the output head; default 8, in a checkpoint 16.")
    ] = None,
    embedding_bits: Annotated[
        int | None, typer.Option(help="Bits of the embedding; default 8, in a checkpoint 16.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Exception, REGEX=bits:8,group_size:32,sym:false; repeatable, the last match wins."),
    ] = None,
    codebooks: Annotated[int, typer.Option(help="aqlm: codebooks of a weight, 1 to 16.")] = DEFAULTS.codebooks,
    codebook_bits: Annotated[
        int, typer.Option(help="aqlm: bits of a code, 1 to 16; a codebook has 2 to that power entries.")
    ] = DEFAULTS.codebook_bits,
    vector_size: Annotated[
        int, typer.Option(help="aqlm: inputs that one code of each codebook stands for: 2, 4, 8, 16 or 32.")
    ] = DEFAULTS.vector_size,
    learn_codes: Annotated[
        bool, typer.Option("--learn-codes/--fixed-codes", help="aqlm: tuning changes codes too, or entries alone.")
    ] = DEFAULTS.learn_codes,
    pv: Annotated[
        bool, typer.Option("--pv", help="PV-Tuning in the end: codes and levels change too, over all blocks at once.")
    ] = DEFAULTS.pv,
    pv_steps: Annotated[int | None, typer.Option(help="Steps of --pv; default: as many as steps a block.")] = None,
    pv_changes: Annotated[
        float, typer.Option(help="Share of vectors, or levels, that a step of --pv may change.")
    ] = DEFAULTS.pv_changes,
    straight_through: Annotated[
        bool,
        typer.Option(
            "--straight-through/--plain-steps",
            help="--pv follows a float copy of the weights; or each step starts anew.",
        ),
    ] = DEFAULTS.straight_through,
    engine: Annotated[
        str,
        typer.Option("--target", help="Tune for the activations that this engine rounds: none, openvino or onnx."),
    ] = DEFAULTS.engine,
    device: Annotated[
        str, typer.Option(help="Where tuning computes: cpu, cuda, xpu, hpu, or auto for the first accelerator found.")
    ] = DEFAULTS.device,
    compile: Annotated[  # noqa: A002  the flag's own name
        str,
        typer.Option(help="Compile the tuning steps by torch.compile: on, off, or auto where it saves time."),
    ] = DEFAULTS.compile,
    initial_grid: Annotated[
        str | None, typer.Option(help="Where tuning begins: extremes, search, compensated or descent; default descent.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="What moves levels and scales: adam, or the sign of the gradient; default adam.")
    ] = None,
    scales: Annotated[
        str, typer.Option(help="free, or clipped: scales follow from two clipping factors, as SignRound has them.")
    ] = DEFAULTS.scales,
    snapshot: Annotated[
        str, typer.Option(help="held-out: the best of some steps on text that was not tuned on; or the last step.")
    ] = DEFAULTS.snapshot,
    robust_loss: Annotated[
        bool | None,
        typer.Option(
            "--robust-loss/--plain-loss", help="Leave the largest errors out of the loss; default at 2-3 bits."
        ),
    ] = None,
    end_to_end: Annotated[
        int | None, typer.Option(help="Steps over all blocks at once behind the block tuning, instead of the recipe's.")
    ] = None,
    norms: Annotated[
        bool, typer.Option("--norms/--keep-norms", help="Move norms and biases too, in the steps over all blocks.")
    ] = DEFAULTS.norms,
    label_share: Annotated[
        float,
        typer.Option(help="Share of the calibration text's own next token in what the steps over all blocks follow."),
    ] = DEFAULTS.label_share,
    window: Annotated[
        int, typer.Option("--window", help="Tune so many blocks together, to the output of the last.")
    ] = DEFAULTS.window,
    tables: Annotated[
        str, typer.Option(help="Embedding and head of at most 4 bits: tuned, or rounded to nearest as wider ones are.")
    ] = DEFAULTS.tables,
    native_weights: Annotated[
        bool,
        typer.Option("--native-weights", help="Layers of 2 to 4 bits as the native operator reads them, on CPU."),
    ] = DEFAULTS.native_weights,
    target_bits: Annotated[
        float | None, typer.Option(help="Choose each layer's bits for this average, scales and zero points included.")
    ] = None,
    target_size_bytes: Annotated[
        str | None,
        typer.Option("--target-size", help="Choose them so that the weights file is at most this, such as 900MB."),
    ] = None,
    target_latency_ms: Annotated[
        str | None,
        typer.Option(
            "--target-latency", help="Choose them for this time a token, such as 12ms, by the table of --profile."
        ),
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="What `ovround profile` measured on the device.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Take every grid from the ovround-plan.json of another conversion.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read every weight back and compare.")
    ] = DEFAULTS.verify,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of continuing an interrupted conversion to OUT.")
    ] = False,
    memory_limit: Annotated[
        str | None,
        typer.Option(help="Memory to stay below, such as 4GB: activations go to files beside OUT where they must."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Quantise MODEL with SignRound, or take its integers where it is quantised, and write it for an engine or as a checkpoint."""
    options = ConvertOptions(
        formats=tuple(format), method=method, bits=bits, group_size=group_size, sym=sym, recipe=recipe, iters=iters, nsamples=nsamples,
        seqlen=seqlen, batch_size=batch_size, calibration=tuple(calibration or ()), seed=seed, lm_head_bits=lm_head_bits,
        embedding_bits=embedding_bits, layers=tuple(LayerRule.parse(rule) for rule in layer or ()), verify=verify,
        engine=engine, device=device, compile=compile, initial_grid=initial_grid, optimizer=optimizer, scales=scales,
        snapshot=snapshot, robust_loss=robust_loss, end_to_end=end_to_end,
        codebooks=codebooks, codebook_bits=codebook_bits, vector_size=vector_size,
        learn_codes=learn_codes, pv=pv, pv_steps=pv_steps,
        pv_changes=pv_changes, straight_through=straight_through,
        label_share=label_share,
        norms=norms, window=window, tables=tables, native_weights=native_weights, target_bits=target_bits, profile=profile, plan=plan,
        target_size_bytes=None if target_size_bytes is None else parse_size("target-size", target_size_bytes),
        target_latency_ms=None if target_latency_ms is None else parse_milliseconds("target-latency", target_latency_ms),
    )  # fmt: skip
    from ovround.cli.plan_table import print_plan
    from ovround.cli.printing import megabytes, print_json
    from ovround.cli.progress import ProgressDisplay
    from ovround.conversion.convert import convert
    from ovround.quant.distributed.launch import Launch
    from ovround.quant.plan_file import plan_as_json

    started = time.monotonic()
    with ProgressDisplay(quiet=quiet or not Launch.from_environment().is_main) as display:
        conversion = convert(model, out, options, display, fresh=fresh, memory_limit=memory_limit)
    elapsed_s = time.monotonic() - started
    if not conversion.folders:
        return  # the first process writes, and tells
    manifest = conversion.manifests[0]
    if json:
        print_json(
            {
                "folders": [str(folder) for folder in conversion.folders],
                "elapsed_s": round(elapsed_s, 3),
                "weight_bytes": sum(weight.size_bytes for weight in manifest.weights),
                "quality": dataclasses.asdict(manifest.quality) if manifest.quality else None,
                "plan": plan_as_json(conversion.plan)["modules"],
                "target": dataclasses.asdict(conversion.mix) if conversion.mix else None,
                "blocks": [dataclasses.asdict(block) for block in manifest.blocks],
            }
        )
        return
    for folder, one in zip(conversion.folders, conversion.manifests, strict=True):
        size = sum(record.size_bytes for record in one.files.values())
        typer.echo(f"{folder}: {one.target}, {megabytes(size)} MB, {elapsed_s:.1f} s")
    unreached = sum(len(block.unreached) for block in manifest.blocks)
    if unreached:
        typer.echo(
            f"warning: no calibration token reached {unreached} expert(s); they are rounded to nearest", err=True
        )
        typer.echo("hint: more text, or more of it: --calibration, --nsamples", err=True)
    if options.target or options.plan:
        print_plan(conversion.plan, conversion.mix)
    quality = manifest.quality
    if quality is not None:
        change = quality.perplexity_quantised / quality.perplexity_original - 1
        typer.echo(
            f"held-out calibration text: perplexity {quality.perplexity_original:.3f} -> "
            f"{quality.perplexity_quantised:.3f} ({change:+.2%}), KL {quality.kl_nats:.4f} nats"
        )
