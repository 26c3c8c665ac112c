"""The checkpoint formats by name."""

from __future__ import annotations

from collections.abc import Callable

from ovround.exporters.checkpoints import aqlm, auto_round, awq, compressed_tensors, gptq, olive
from ovround.exporters.checkpoints.layout import Format, Plan, Shapes

FORMATS: dict[str, Callable[[Plan, Shapes], Format]] = {
    "auto_round": auto_round.Format,
    "gptq": gptq.Format,
    "awq": awq.Format,
    "compressed-tensors": compressed_tensors.Format,
    "olive": olive.Format,
    "aqlm": aqlm.Format,
}


def open_format(name: str, plan: Plan, shapes: Shapes) -> Format:
    """The format called `name`, for a model of this plan; raises UsageError for what it cannot hold."""
    return FORMATS[name](plan, shapes)
