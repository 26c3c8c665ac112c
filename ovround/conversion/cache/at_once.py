"""A conversion that is ready at once: weights are rounded to nearest, or kept where the source is quantised."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ovround.errors import EngineError
from ovround.options.convert_options import ConvertOptions, default_of
from ovround.progress import OnProgress
from ovround.runtime.memory import total_bytes
from ovround.tensors.scheme import FLOAT_BITS


@dataclass(frozen=True, slots=True)
class AtOnce:
    """What was done: the method that the source was quantised by, or how its weights could be tuned."""

    method: str
    advice: str


def convert_at_once(
    source: Path, place: Path, options: ConvertOptions, model: str, on_message: Callable[[str], None],
    on_progress: OnProgress,
) -> AtOnce:  # fmt: skip
    """Convert `source`, which the user calls `model`, into `place`.

    Raises what `convert` raises, and EngineError for a model larger than this machine's memory, before anything is converted.
    """
    from ovround.checkpoint import Checkpoint
    from ovround.conversion.adapted_source import open_adapted
    from ovround.conversion.convert import convert
    from ovround.conversion.preparation import prepare

    tuned, options = options, replace(options, recipe="rtn")
    if not isinstance(open_adapted(source), Checkpoint):
        options = tuned  # nothing is tuned: the integers are kept
    job = prepare(str(source), place, options)
    _check_memory(model, job.needed_bytes, options.bits)
    done = "its weights are kept as they are quantised"
    if job.quantised is None:
        done = f"its weights are rounded to {options.bits} bits"
    on_message(f"`{model}` is not converted yet: {done}, for {options.formats[0]}, once")
    name = None if Path(model).expanduser().exists() else model
    manifest = convert(source, place, options, on_progress, source_name=name).manifests[0]
    if job.quantised is not None or options.bits == FLOAT_BITS:
        return AtOnce(manifest.source_method, "")
    if options.bits > default_of("bits"):
        fewer = replace(options, bits=default_of("bits"))
        advice = f"`{_command(model, fewer)}` tunes {fewer.bits} bits: smaller, and closer to the model than rounding to them"
        return AtOnce("", advice)
    return AtOnce("", f"`{_command(model, options)}` tunes the weights, which keeps more of the model and takes longer")


def _command(model: str, options: ConvertOptions) -> str:
    words = ["ovround", "convert", model, f"{Path(model.partition('@')[0]).stem}-tuned"]
    words += ["--format", options.formats[0]] if options.formats != default_of("formats") else []
    words += ["--bits", str(options.bits)] if options.bits != default_of("bits") else []
    return shlex.join(words)


def _check_memory(model: str, weight_bytes: int, bits: int) -> None:
    """Raise EngineError where the weights alone exceed the memory of this machine."""
    memory = total_bytes()
    if memory is not None and weight_bytes > memory:
        fewer = " or fewer bits (`--bits 2`)" if bits > 2 else ""
        raise EngineError(
            f"`{model}` in {bits} bits takes about {weight_bytes / 1e9:.1f} GB; {memory / 1e9:.1f} GB of memory may be used here",
            hint=f"a smaller model{fewer}; `ovround convert` writes it all the same, for another machine",
        )
