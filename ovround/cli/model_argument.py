"""MODEL of the commands that run one: a converted folder as it is, anything else by way of the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ovround.cli.working import say
from ovround.errors import ArtifactError

T = TypeVar("T")

Model = Annotated[
    str,
    typer.Argument(
        help="Folder that `ovround convert` wrote, or what it takes: checkpoint or adapter folder, GGUF file, hub name, `demo`."
    ),
]


def with_model(
    model: str, load: Callable[[Path], T], bits: int | None, format_name: str | None, device: str = "CPU", *,
    quiet: bool = False,
) -> T:  # fmt: skip
    """What `load` makes of the folder of `model`. A conversion in the cache whose bytes have changed is made again.

    Raises OvroundError: that of `load`, or why `model` cannot be converted.
    """
    from ovround.conversion.cache import remove_if_damaged, runs_as_it_is

    path = Path(model).expanduser()
    if bits is None and format_name is None and (runs_as_it_is(path) or _on_gaudi(device)):
        return load(path if path.exists() else located(model, quiet=quiet))
    folder = _cached(model, bits, format_name, quiet=quiet)
    try:
        return load(folder)
    except ArtifactError:
        damage = remove_if_damaged(folder)
        if damage is None:
            raise
        say(f"warning: the conversion in the cache is damaged, and is made again: {damage}")
    return load(_cached(model, bits, format_name, quiet=quiet))


def _cached(model: str, bits: int | None, format_name: str | None, *, quiet: bool) -> Path:
    from ovround.cli.progress import ProgressDisplay
    from ovround.conversion.cache import cached_model

    def tell(message: str) -> None:
        if not quiet or message.startswith("warning: "):
            say(message)

    def best_bits(named: str, asked_format: str) -> int | None:
        return _best_bits(named, asked_format, tell)

    with ProgressDisplay(f"opening {model}", quiet=quiet) as display:
        return cached_model(
            model, bits=bits, format=format_name, on_message=tell, on_progress=display, choose_bits=best_bits
        )


def _best_bits(model: str, format_name: str, tell: Callable[[str], None]) -> int | None:
    """The bits that fit this machine best; `tell` gets the reason."""
    from ovround.measure.fit.table import best_bits

    row = best_bits(model, format_name)
    if row is None:
        return None
    tell(
        f"{row.bits} bits fit best here: about {row.memory_bytes / 1e9:.1f} GB of memory, {1 / row.token_s:.0f} tokens/s "
        f"(`ovround fit {model}`, --bits)"
    )
    return row.bits


def located(model: str, *, quiet: bool = False) -> Path:
    """The folder or file of `model`, its download shown."""
    from ovround.checkpoint import locate
    from ovround.cli.progress import ProgressDisplay

    with ProgressDisplay(f"opening {model}", quiet=quiet) as display:
        return locate(model, display)


def _on_gaudi(device: str) -> bool:
    """Whether the device runs checkpoints as they are."""
    from ovround.runtime.engines import HPU_DEVICES

    return device.lower() in HPU_DEVICES
