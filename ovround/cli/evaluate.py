"""`ovround eval`: perplexity of a converted folder or of a checkpoint, and its distance from a reference."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.model_argument import with_model
from ovround.cli.shared_flags import Bits, Format, Json, Kernel, Quiet
from ovround.cli.working import Working

if TYPE_CHECKING:
    from ovround.measure.lm_eval_harness import TaskScore

NAME = "eval"


def command(
    model: Annotated[
        str, typer.Argument(help="Converted folder, or a checkpoint, hub name, GGUF file or `demo`, computed by torch.")
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Texts or chats to score: .txt, .json, .jsonl, .csv, .parquet, or org/name[:config] of the hub; repeatable."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks of lm-eval instead of texts, by commas: NAME=FILE.jsonl for a local file, or a name of its own."
        ),
    ] = None,
    task_folder: Annotated[
        Path | None, typer.Option(help="Folder of further tasks as YAML files of lm-eval; default: none.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Number of items of each task; default: all.")] = None,
    num_fewshot: Annotated[int, typer.Option(min=0, help="Number of examples before each item of a task.")] = 0,
    reference: Annotated[
        str | None,
        typer.Option(help="Unquantised checkpoint to compare with by KL and top-1 agreement; default: none."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of a sample of the text; default: the model's context, at most 2048.")
    ] = None,
    bos: Annotated[
        bool,
        typer.Option(
            "--bos/--no-bos",
            help="Samples that begin with what the tokenizer puts before a text (BOS), which is not scored; "
            "or cut anywhere, as in papers.",
        ),
    ] = True,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact/--default",
            help="Float32 arithmetic without quantised activations or cache, or the engine's defaults.",
        ),
    ] = True,
    device: Annotated[
        str, typer.Option("--device", "-d", help="Device for a converted folder: CPU, GPU, NPU ...")
    ] = "CPU",
    kernel: Kernel = "auto",
    bits: Bits = None,
    format: Format = None,  # noqa: A002  the flag's name
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on text: perplexity, and divergence from the original with --reference.

    With --bits or --format, what `ovround run` would run: the rounded model in the cache.
    """
    from ovround.cli.printing import print_json, print_table
    from ovround.errors import UsageError

    if (text is None) == (tasks is None):
        raise UsageError("one of --text and --tasks is needed", hint="--text FILE, or --tasks lambada=FILE.jsonl")
    if bits is not None or format is not None:
        model = with_model(model, str, bits, format, quiet=quiet)
    if tasks is not None:
        if reference is not None or context is not None:
            raise UsageError("--reference and --context go with --text, not with --tasks")
        os.environ.setdefault("TQDM_DISABLE", "1")  # the harness draws a bar while it reads its tasks
        from ovround.measure.lm_eval_harness import evaluate_tasks

        with Working(f"loading {model}", quiet=quiet) as work:
            scores = evaluate_tasks(
                model, tasks.split(","), device=device, exact=exact, add_bos_token=None if bos else False, limit=limit,
                fewshot=num_fewshot, task_folder=task_folder, on_items=partial(work.count, "scored items"),
            )  # fmt: skip
        _print_tasks(model, scores, exact, json)
        return
    from ovround.measure.evaluation import evaluate_model

    text = text or []
    with Working(f"loading {model}", quiet=quiet) as work:
        rows = evaluate_model(
            model, tuple(text), reference=reference, context=context, exact=exact, device=device, kernel=kernel, bos=bos,
            on_samples=partial(work.count, "scored samples"),
        )  # fmt: skip
    if json:
        print_json(
            {
                "model": model, "mode": "exact" if exact else "default",
                "texts": [{"text": str(path), **dataclasses.asdict(row)} for path, row in zip(text, rows, strict=True)],
            }
        )  # fmt: skip
        return
    head = ["text", "tokens", "perplexity", "accuracy"]
    if reference is not None:
        head += ["reference", "change", "accuracy kept", "KL nats", "top-1 agrees"]
    table: list[list[object]] = []
    for path, row in zip(text, rows, strict=True):
        cells: list[object] = [path.name, row.tokens, f"{row.perplexity:.4f}", f"{row.accuracy:.2%}"]
        if row.reference_perplexity is not None and row.kl_nats is not None and row.top1_agreement is not None:
            change = row.perplexity / row.reference_perplexity - 1
            cells += [
                f"{row.reference_perplexity:.4f}",
                f"{change:+.2%}",
                f"{row.accuracy / row.reference_accuracy:.2%}" if row.reference_accuracy else "-",
                f"{row.kl_nats:.5f}",
                f"{row.top1_agreement:.2%}",
            ]
        table.append(cells)
    print_table(head, table)
    if rows[0].prefix:
        typer.echo(
            f"each sample of {rows[0].context} tokens begins with {' '.join(rows[0].prefix)}, which is not scored"
        )


def _print_tasks(model: str, scores: list[TaskScore], exact: bool, as_json: bool) -> None:
    from ovround.cli.printing import print_json, print_table

    if as_json:
        rows = [dataclasses.asdict(score) for score in scores]
        print_json({"model": model, "mode": "exact" if exact else "default", "tasks": rows})
        return
    table = [[score.task, score.items, score.metric, f"{score.value:.4f}"] for score in scores]
    print_table(["task", "items", "metric", "value"], table)
