"""`ovround quantize`: tune once into a checkpoint, which `ovround convert` then emits in any format."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

from ovround.cli import convert

NAME = "quantize"
FORMAT = "auto_round"


def command(**options: Any) -> None:
    """Quantise MODEL with SignRound into an auto_round checkpoint, which `ovround convert` writes in any other format.

    With --method aqlm into an aqlm checkpoint.
    """
    convert.command(format=["aqlm" if options["method"] == "aqlm" else FORMAT], **options)


# The options are those of `convert`, and are stated there: Typer reads them from here.
_shared = [parameter for name, parameter in inspect.signature(convert.command).parameters.items() if name != "format"]
command.__signature__ = inspect.Signature(_shared)  # type: ignore[attr-defined]
command.__annotations__ = {
    name: hint for name, hint in get_type_hints(convert.command, include_extras=True).items() if name != "format"
}
