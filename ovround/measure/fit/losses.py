"""What rounding costs, from a small table of real models that benchmarks/fit_losses.py measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ovround.record import read_record

_FILE = Path(__file__).parent / "losses.json"


@dataclass(frozen=True, slots=True)
class MeasuredLoss:
    """A model that was rounded to `bits`: the rise of its perplexity (0.2: by a fifth), its divergence in nats a token if known."""

    model: str
    parameters: int
    bits: int
    perplexity_rise: float
    kl_nats: float | None = None


def nearest_loss(parameters: int, bits: int) -> MeasuredLoss | None:
    """What the measured model nearest in size lost at these bits; None where none was measured."""
    rows = [row for row in _rows() if row.bits == bits]
    return min(rows, key=lambda row: abs(math.log(row.parameters / max(parameters, 1))), default=None)


@cache
def _rows() -> tuple[MeasuredLoss, ...]:
    rows = json.loads(_FILE.read_text(encoding="utf-8"))["rows"]
    return tuple(read_record(MeasuredLoss, row) for row in rows)
