"""`ovround bench`: load time, latency, memory, and the share of this machine's read bandwidth that decoding uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.model_argument import Model, with_model
from ovround.cli.shared_flags import Bits, Device, Exact, Format, Json, Kernel, Quiet, Threads, Verify
from ovround.cli.working import Working
from ovround.errors import UsageError

if TYPE_CHECKING:
    from ovround.measure.bench_options import BenchOptions
    from ovround.measure.peers import Baseline

NAME = "bench"


def command(
    model: Model,
    prompt_tokens: Annotated[int, typer.Option(help="Number of prompt tokens, drawn at random.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Number of tokens to generate.")] = 64,
    repeat: Annotated[int, typer.Option(help="Number of measured runs, after one to warm up.")] = 5,
    device: Device = "CPU",
    exact: Exact = False,
    kernel: Kernel = "auto",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the prompt.")] = 0,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            "--peer",
            help="Other runtime to measure in turn: openvino-genai, onnxruntime-genai, llama.cpp or optimum; default: none.",
        ),
    ] = None,
    baseline_model: Annotated[
        Path | None, typer.Option(help="Model that the baseline loads; default: MODEL, where it can read it.")
    ] = None,
    baseline_python: Annotated[
        Path | None, typer.Option(help="Python that has the baseline installed; default: this one.")
    ] = None,
    baseline_threads: Annotated[
        int | None, typer.Option(help="CPU threads of the baseline; default: those of --threads.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="File for a plot of latency by context and throughput by batch (extra `plot`); default: none."
        ),
    ] = None,
    bits: Bits = None,
    format: Format = None,  # noqa: A002  the flag's name
    verify: Verify = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how fast MODEL answers."""
    from ovround.cli.printing import megabytes, print_json, print_table
    from ovround.measure.bench_options import BenchOptions
    from ovround.measure.benchmark import BenchResult, bench
    from ovround.measure.fit.observed import remember

    options = BenchOptions(prompt_tokens, new_tokens, repeat, device, exact, threads, seed, verify, kernel)
    if baseline is None and (baseline_model or baseline_python or baseline_threads):
        raise UsageError("baseline-model, baseline-python and baseline-threads need --baseline")
    if baseline is not None and plot is not None:
        raise UsageError("baseline and plot are two measurements: ask for one at a time")

    folders: list[Path] = []

    def load(folder: Path) -> BenchResult | None:
        folders.append(folder)
        with Working(f"loading {model}", quiet=quiet) as work:
            if baseline is not None:
                from ovround.measure.peers import Baseline

                other = Baseline(baseline, baseline_model, baseline_python, baseline_threads)
                _compare(folder, other, options, json, work)
            elif plot is not None:
                _plot(folder, plot, options, json, work)
            else:
                return bench(folder, options, work.begin)
        return None

    result = with_model(model, load, bits, format, device, quiet=quiet)
    if result is None:
        return
    if not exact and threads is None and device == "CPU":
        remember(folders[-1], result)
    if json:
        print_json(dataclasses.asdict(result))
        return
    typer.echo(
        f"{model} on {result.device}, {result.kernel} kernels: {prompt_tokens} prompt and {new_tokens} new tokens, "
        f"{repeat} runs after one to warm up"
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


def _compare(folder: Path, baseline: Baseline, options: BenchOptions, json: bool, work: Working) -> None:
    from ovround.cli.printing import megabytes, print_json, print_table
    from ovround.measure.peers import Side, compare

    def show(number: int, first: float, later: float) -> None:
        work.note(f"round {number + 1}: first token x {first:.2f}, each further one x {later:.2f}")

    work.begin(f"loading `{folder}` and {baseline.name}")
    result = compare(folder, baseline, options, show)
    work.end()
    if json:
        print_json(dataclasses.asdict(result))
        return

    def memory(side: Side) -> str:
        return "-" if side.peak_memory_bytes is None else f"{megabytes(side.peak_memory_bytes)} MB"

    ours, theirs = result.ours, result.peer
    typer.echo(
        f"{result.prompt_tokens} prompt and {result.new_tokens} new tokens, {result.rounds} rounds in turn, medians"
    )
    rows = {
        "from start to first token": ("load_to_first_token_s", result.load_to_first_token_ratio),
        "time to first token": ("time_to_first_token_median_s", result.time_to_first_token_ratio),
        "time per output token": ("time_per_output_token_median_s", result.time_per_output_token_ratio),
    }
    smaller = "-" if result.peak_memory_ratio is None else f"{result.peak_memory_ratio:.2f}"
    print_table(
        ["measure", ours.label, theirs.label, "ratio"],
        [
            *(
                [name, _ms(getattr(ours, field)), _ms(getattr(theirs, field)), f"{ratio:.2f}"]
                for name, (field, ratio) in rows.items()
            ),
            ["peak memory", memory(ours), memory(theirs), smaller],
        ],
    )


def _plot(folder: Path, path: Path, options: BenchOptions, json: bool, work: Working) -> None:
    from ovround.cli.plot import check_plot, plot
    from ovround.cli.printing import print_json
    from ovround.measure.sweep import Point, sweep

    def show(point: Point) -> None:
        first, later = _ms(point.time_to_first_token_s), _ms(point.time_per_output_token_s)
        work.note(f"batch {point.batch}, prompt {point.prompt_tokens}: first token {first}, each further one {later}")

    check_plot(path)
    result = sweep(folder, options, show)
    work.end()
    plot(result, folder.name, path)
    if json:
        print_json(dataclasses.asdict(result))
    else:
        typer.echo(f"{path} written")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
