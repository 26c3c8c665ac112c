"""`ovround profile`: what a linear layer of each shape and width costs on this device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ovround.cli.option_flags import flag_parameters, with_flags
from ovround.cli.shared_flags import Json, Quiet, Threads
from ovround.cli.working import Working
from ovround.options.convert_options import ConvertOptions

NAME = "profile"


def command(
    model: Annotated[str, typer.Argument(help="Model folder, hub name, or `demo`: whose shapes are measured.")],
    table: Annotated[Path, typer.Argument(help="File to write, for `ovround convert --budget 12ms:TABLE`.")],
    format: Annotated[str, typer.Option("--format", help="Format: openvino or onnx.")] = "openvino",  # noqa: A002  the flag's own name
    device: Annotated[str, typer.Option(help="Device: CPU; with OpenVINO also GPU, NPU, GPU.1 and so on.")] = "CPU",
    threads: Threads = None,
    repeat: Annotated[int, typer.Option(help="Number of measured runs at each width, after two to warm up.")] = 15,
    json: Json = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Measure the linear layers of MODEL on this device, one token at a time, into TABLE."""
    from ovround.cli.printing import print_json, print_table
    from ovround.conversion.latency_table import check_table_path, write_table
    from ovround.measure.profiling.measure import Shape, measure

    check_table_path(table)
    with Working(f"loading {model}", quiet=quiet) as work:

        def on_shape(shape: Shape, number: int, count: int) -> None:
            work.note(f"shape {number + 1}/{count}  {shape[0]} x {shape[1]}")

        latencies = measure(
            model, format=format, device=device, group_size=given["group_size"], sym=given["sym"], threads=threads,
            repeat=repeat, on_shape=on_shape,
        )  # fmt: skip
    write_table(table, latencies)
    if json:
        print_json(dataclasses.asdict(latencies))
        return
    groups = "groups as by default" if latencies.group_size is None else f"groups of {latencies.group_size}"
    typer.echo(f"{table}: {latencies.format} on {latencies.device_name}, {groups}, milliseconds a token")
    bits = list(dict.fromkeys(row.bits for row in latencies.rows))
    shapes = list(dict.fromkeys((row.outputs, row.inputs) for row in latencies.rows))
    cells = {(row.outputs, row.inputs, row.bits): f"{row.ms:.4f}" for row in latencies.rows}
    print_table(
        ["outputs", "inputs", *(f"{width} bits" for width in bits)],
        [[*shape, *(cells[(*shape, width)] for width in bits)] for shape in shapes],
    )


with_flags(command, flag_parameters(ConvertOptions, only=("group_size", "sym")))
