"""`ovround quantize`: tune once into a checkpoint, which `ovround convert` then writes in any format."""

from __future__ import annotations

import inspect
from typing import Any

from ovround.cli import convert
from ovround.cli.option_flags import with_flags

NAME = "quantize"
FORMAT = "auto_round"


def command(**given: Any) -> None:
    """Quantise MODEL with SignRound into an auto_round checkpoint, which `ovround convert` writes in any other format.

    With --codebooks into an aqlm checkpoint.
    """
    convert.command(formats=["aqlm" if given["codebooks"] else FORMAT], **given)


with_flags(
    command,
    [parameter for name, parameter in inspect.signature(convert.command).parameters.items() if name != "formats"],
)
