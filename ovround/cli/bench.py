"""`ovround bench`: load time, latency, memory, and the share of this machine's read bandwidth that decoding uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ovround.cli.sampling_options import Device, Exact, OnMissingKernel

NAME = "bench"


def command(
    folder: Annotated[Path, typer.Argument(help="A folder that `ovround convert` wrote.")],
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt, drawn at random.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    repeat: Annotated[int, typer.Option(help="Measured runs, after one to warm up.")] = 5,
    device: Device = "CPU",
    exact: Exact = False,
    on_missing_kernel: OnMissingKernel = "expand",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: the engine's own choice.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the prompt.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how fast the model in FOLDER answers."""
    from ovround.cli.printing import megabytes, print_json, print_table
    from ovround.runtime import bench

    result = bench(
        folder, prompt_tokens=prompt_tokens, new_tokens=new_tokens, repeat=repeat, device=device, exact=exact,
        threads=threads, seed=seed, on_missing_kernel=on_missing_kernel,
    )  # fmt: skip
    if json:
        print_json(dataclasses.asdict(result))
        return
    typer.echo(
        f"{folder} on {result.device}: {prompt_tokens} prompt and {new_tokens} new tokens, {repeat} runs after one to warm up"
    )
    peak = "-" if result.peak_memory_bytes is None else f"{megabytes(result.peak_memory_bytes)} MB"
    print_table(
        ["measure", "median", "p90"],
        [
            ["load", f"{result.load_s * 1e3:.1f} ms", ""],
            ["time to first token", _ms(result.time_to_first_token_median_s), _ms(result.time_to_first_token_p90_s)],
            [
                "time per output token",
                _ms(result.time_per_output_token_median_s),
                _ms(result.time_per_output_token_p90_s),
            ],
            ["tokens/s", f"{result.tokens_per_s:.1f}", ""],
            ["peak memory", peak, ""],
            ["weights read per token", f"{megabytes(result.weight_bytes_per_token)} MB", ""],
            ["read bandwidth", f"{result.read_bandwidth_bytes_per_s / 1e9:.1f} GB/s", ""],
            ["share of bandwidth", f"{result.bandwidth_share:.1%}", ""],
        ],
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
