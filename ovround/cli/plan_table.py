"""How a plan of several widths looks: one line a block, one column a group of layers that share their bits."""

from __future__ import annotations

import re

import typer

from ovround.cli.printing import print_table
from ovround.conversion.bit_budget import BitAllocation
from ovround.options.convert_options import FLOAT_BITS, QuantScheme
from ovround.quant.plan import Plan

_IN_BLOCK = re.compile(r"(.*\.)?(\d+)\.(.*)")
_SUFFIX = "_proj"


def print_plan(plan: Plan, mix: BitAllocation | None) -> None:
    """Bits of every linear layer; and, where a target was given, how near it was come and what that is expected to cost."""
    blocks: dict[int, dict[str, int]] = {}
    for name, scheme in plan.items():
        if match := _IN_BLOCK.fullmatch(name):
            short = match[3].rpartition(".")[2].removesuffix(_SUFFIX)
            blocks.setdefault(int(match[2]), {})[short] = scheme.bits if isinstance(scheme, QuantScheme) else FLOAT_BITS
    columns = list(dict.fromkeys(short for bits in blocks.values() for short in bits))
    print_table(["block", *columns], [[n, *(bits.get(one, "") for one in columns)] for n, bits in blocks.items()])
    if mix is not None:
        typer.echo(
            f"{mix.target} {_shown(mix, mix.wanted)}: {_shown(mix, mix.reached)} reached; "
            f"rounded to nearest, these layers would add {mix.loss_rise_nats:.4f} nats a token by estimate"
        )


def _shown(mix: BitAllocation, value: float) -> str:
    return f"{value:.0f} bytes" if mix.target == "target-size" else f"{value:.4g}"
