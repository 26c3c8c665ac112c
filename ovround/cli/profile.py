"""`ovround profile`: what a linear layer of each shape and width costs on this device."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

NAME = "profile"


def command(
    model: Annotated[str, typer.Argument(help="Model folder, hub name, or `demo`: whose shapes are measured.")],
    table: Annotated[Path, typer.Argument(help="File to write, for `ovround convert --target-latency ... --profile`.")],
    format: Annotated[str, typer.Option("--format", help="openvino or onnx.")] = "openvino",  # noqa: A002  the flag's own name
    device: Annotated[str, typer.Option(help="CPU; with OpenVINO also GPU, NPU, GPU.1 and so on.")] = "CPU",
    group_size: Annotated[
        int, typer.Option(help="Inputs that share a scale: 16, 32, 64, 128, 256, or -1 for a whole row.")
    ] = 128,
    sym: Annotated[bool, typer.Option("--sym/--asym", help="Symmetric, or with zero points.")] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: the engine's own choice.")] = None,
    repeat: Annotated[int, typer.Option(help="Measured runs at each width, after two to warm up.")] = 15,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Measure the linear layers of MODEL on this device, one token at a time, into TABLE."""
    from ovround.cli.printing import print_json, print_table
    from ovround.conversion.latency_table import check_table_path, write_table
    from ovround.measure.profiling.measure import Shape, measure

    def on_shape(shape: Shape, number: int, count: int) -> None:
        if not quiet:
            print(f"shape {number + 1}/{count}  {shape[0]} x {shape[1]}", file=sys.stderr, flush=True)

    check_table_path(table)
    found = measure(
        model, format=format, device=device, group_size=group_size, sym=sym, threads=threads, repeat=repeat,
        on_shape=on_shape,
    )  # fmt: skip
    write_table(table, found)
    if json:
        print_json(dataclasses.asdict(found))
        return
    typer.echo(f"{table}: {found.format} on {found.device_name}, groups of {group_size}, milliseconds a token")
    bits = list(dict.fromkeys(row.bits for row in found.rows))
    shapes = list(dict.fromkeys((row.outputs, row.inputs) for row in found.rows))
    cells = {(row.outputs, row.inputs, row.bits): f"{row.ms:.4f}" for row in found.rows}
    print_table(
        ["outputs", "inputs", *(f"{one} bits" for one in bits)],
        [[*shape, *(cells[(*shape, one)] for one in bits)] for shape in shapes],
    )
