"""`ovround eval`: perplexity of a converted folder or of a checkpoint, and its distance from a reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ovround.cli.sampling_options import OnMissingKernel

NAME = "eval"


def command(
    model: Annotated[str, typer.Argument(help="Converted folder, or a checkpoint (computed by torch), or `demo`.")],
    text: Annotated[list[Path], typer.Option(help="Text to score, .txt or .jsonl with `text`; repeatable.")],
    reference: Annotated[
        str | None, typer.Option(help="Unquantised checkpoint to compare with: adds KL and top-1 agreement.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens a window; default: the model's context, at most 2048.")
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact/--default",
            help="Float32 arithmetic, no activation or cache quantisation; or the engine as it runs.",
        ),
    ] = True,
    device: Annotated[str, typer.Option("--device", "-d", help="CPU, GPU, NPU ... for a converted folder.")] = "CPU",
    on_missing_kernel: OnMissingKernel = "expand",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score a model on text: perplexity, and divergence from the original with --reference."""
    from ovround.cli.printing import print_json, print_table
    from ovround.evaluation import evaluate_model

    rows = evaluate_model(
        model, tuple(text), reference=reference, context=context, exact=exact, device=device,
        on_missing_kernel=on_missing_kernel,
    )  # fmt: skip
    if json:
        print_json(
            {
                "model": model, "mode": "exact" if exact else "default",
                "texts": [{"text": str(path), **dataclasses.asdict(row)} for path, row in zip(text, rows, strict=True)],
            }
        )  # fmt: skip
        return
    head = ["text", "tokens", "perplexity"] + (["reference", "change", "KL nats", "top-1 agrees"] if reference else [])
    table: list[list[object]] = []
    for path, row in zip(text, rows, strict=True):
        cells: list[object] = [path.name, row.tokens, f"{row.perplexity:.4f}"]
        if row.reference_perplexity is not None and row.kl_nats is not None and row.top1_agreement is not None:
            change = row.perplexity / row.reference_perplexity - 1
            cells += [
                f"{row.reference_perplexity:.4f}",
                f"{change:+.2%}",
                f"{row.kl_nats:.5f}",
                f"{row.top1_agreement:.2%}",
            ]
        table.append(cells)
    print_table(head, table)
