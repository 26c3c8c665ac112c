"""`ovround fit`: what a model takes on this machine at each width, before it is downloaded or converted."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.shared_flags import Json, Quiet
from ovround.cli.working import Working

if TYPE_CHECKING:
    from ovround.measure.fit.table import Fit, FitRow

NAME = "fit"
_MINUTE, _HOUR = 60, 3600
_TENFOLD, _USELESS = 9, 1000


def command(
    model: Annotated[str, typer.Argument(help="Hub name, checkpoint folder, config.json or GGUF file.")],
    context: Annotated[
        int | None, typer.Option(help="Tokens of the conversation; default: the model's, at most 4096.")
    ] = None,
    format: Annotated[  # noqa: A002  the flag's name
        str, typer.Option("--format", help="Format that would be written: openvino or onnx.")
    ] = "openvino",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what MODEL takes here at each width: file, memory, time of a token, loss, time to tune; nothing is downloaded."""
    from ovround.artifact.manifest import ENGINE_FORMATS
    from ovround.cli.printing import print_json
    from ovround.measure.fit.table import fit, refusal
    from ovround.options.option import one_of

    one_of("format", format, ENGINE_FORMATS)
    with Working(f"reading {model}, and measuring this machine", quiet=quiet):
        found = fit(model, context, format)
    if json:
        print_json(dataclasses.asdict(found))
    else:
        _print(found)
    if found.best is None:
        raise refusal(found)


def _print(found: Fit) -> None:
    from ovround.cli.printing import print_table

    memory = "unknown" if found.usable_bytes is None else f"{found.usable_bytes / 1e9:.1f} GB"
    download = f"; a download of {found.download_bytes / 1e9:.2f} GB" if found.download_bytes else ""
    typer.echo(f"{found.model}: {found.parameters / 1e6:.0f} M parameters{download}")
    typer.echo(
        f"{found.format} on CPU, context {found.context} of {found.longest_context}; memory that may be used {memory}, "
        f"read at {found.bandwidth / 1e9:.1f} GB/s"
    )
    head = ["bits", "file", "memory", "fits", "a token", "tokens/s", "perplexity", "time to tune", ""]
    print_table(head, [_cells(found, row) for row in found.rows])
    losses = {row.loss.model: None for row in found.rows if row.loss is not None}
    if any(row.tune_s for row in found.rows):
        typer.echo("time to tune: an estimate, by the default recipe and with nothing else running")
    if losses:
        typer.echo(f"perplexity: what rounding cost {', '.join(losses)}, nearest in size; tuning keeps more")


def _cells(found: Fit, row: FitRow) -> list[str]:
    return [
        f"{row.bits} ({found.method}, kept)" if found.method else str(row.bits),
        f"{row.file_bytes / 1e9:.2f} GB",
        f"{row.memory_bytes / 1e9:.2f} GB",
        "yes" if row.fits else "no",
        f"{row.token_s * 1e3:.1f} ms",
        f"{1 / row.token_s:.1f}",
        "-" if row.loss is None else _rise(row.loss.perplexity_rise),
        _duration(row.tune_s) if row.tune_s else "-",
        "<- best here" if row.best else "",
    ]


def _rise(share: float) -> str:
    if share >= _USELESS:
        return f"> x {_USELESS}"
    return f"{share:+.1%}" if share < _TENFOLD else f"x {1 + share:.0f}"


def _duration(seconds: float) -> str:
    if seconds < _HOUR:
        return f"{max(seconds / _MINUTE, 1):.0f} min"
    return f"{seconds / _HOUR:.1f} h"
