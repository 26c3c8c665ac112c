"""A plan of several widths as a table: one line a block, one column a group of layers that share their bits."""

from __future__ import annotations

import re

import typer

from ovround.cli.printing import print_table
from ovround.conversion.bit_budget import BitAllocation
from ovround.quant.plan import Plan
from ovround.tensors.scheme import FLOAT_BITS, AffineScheme, QuantScheme

_IN_BLOCK = re.compile(r"(.*\.)?(\d+)\.(.*)")
_SUFFIX = "_proj"


def print_plan(plan: Plan, allocation: BitAllocation | None) -> None:
    """Bits of every linear layer, and with a budget what they come to and the loss by estimate."""
    blocks: dict[int, dict[str, int]] = {}
    for name, scheme in plan.items():
        if match := _IN_BLOCK.fullmatch(name):
            short = match[3].rpartition(".")[2].removesuffix(_SUFFIX)
            blocks.setdefault(int(match[2]), {})[short] = (
                scheme.bits if isinstance(scheme, QuantScheme | AffineScheme) else FLOAT_BITS
            )
    columns = list(dict.fromkeys(short for bits in blocks.values() for short in bits))
    print_table(["block", *columns], [[n, *(bits.get(column, "") for column in columns)] for n, bits in blocks.items()])
    if allocation is not None:
        typer.echo(
            f"budget {_shown(allocation, allocation.wanted)}: {_shown(allocation, allocation.reached)} reached; "
            f"rounded to nearest, these layers would add {allocation.loss_rise_nats:.4f} nats a token by estimate"
        )


def _shown(allocation: BitAllocation, value: float) -> str:
    return f"{value:.0f} bytes" if allocation.unit == "bytes" else f"{value:.4g} {allocation.unit}"
