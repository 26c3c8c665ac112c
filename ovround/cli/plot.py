"""The picture of `ovround bench --plot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ovround.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from ovround.measure.sweep import Sweep

TYPES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise UsageError for a file that cannot be written, MissingExtraError without matplotlib: before anything is measured."""
    if path.suffix not in TYPES:
        raise UsageError(f"plot is `{path}`; a name ending in {', '.join(TYPES)} is needed")
    if not path.parent.is_dir():
        raise UsageError(f"plot: the folder `{path.parent}` does not exist")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error


def plot(result: Sweep, title: str, path: Path) -> None:
    """Draw time to first token and per token against the context, and tokens a second against the batch, into `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    first, later, rate = figure.subplots(1, 3)
    lengths = [point.prompt_tokens for point in result.contexts]
    first.plot(lengths, [1e3 * point.time_to_first_token_s for point in result.contexts], marker="o")
    first.set(title="time to first token", xlabel="prompt tokens", ylabel="ms", xscale="log", yscale="log")
    later.plot(lengths, [1e3 * point.time_per_output_token_s for point in result.contexts], marker="o")
    later.set(title="time per output token", xlabel="prompt tokens", ylabel="ms", xscale="log", ylim=(0, None))
    for axes in (first, later):
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
    sizes = [point.batch for point in result.batches]
    rate.plot(sizes, [point.tokens_per_s for point in result.batches], marker="o")
    prompt = result.batches[0].prompt_tokens
    rate.set(title=f"throughput, prompts of {prompt}", xlabel="batch", ylabel="tokens/s", xticks=sizes, ylim=(0, None))
    for axes in (first, later, rate):
        axes.grid(alpha=0.3)
    figure.suptitle(f"{title}  ({result.device})", fontsize="small")
    figure.savefig(path, dpi=150)
