"""Weights whose rounding error is larger than their bits explain: tiny or huge values, whose scales float16 holds badly."""

from __future__ import annotations

from collections.abc import Iterable

from ovround.artifact.manifest import WeightRecord
from ovround.tensors.qtensor import BITS

# Uniform values lose 2^-bits of their size, normal ones in groups of 64 lose 1.4 times that, rows of 4096 lose 2.1 times that.
_ALLOWED = 8.0
_LARGEST = 0.9
_SHOWN = 3


def allowed_error(bits: int) -> float:
    """The largest relative error |W - Wq| / |W| that rounding to `bits` explains, outliers of four times the usual included."""
    return min(_LARGEST, _ALLOWED / (1 << bits))


def precision_notes(records: Iterable[WeightRecord]) -> tuple[str, ...]:
    """A sentence on the weights whose error is larger than `allowed_error`; empty where there are none."""
    bad = [
        record
        for record in records
        if record.group_size
        and record.bits in BITS
        and not record.codebooks
        and record.relative_error > allowed_error(record.bits)
    ]
    if not bad:
        return ()
    worst = sorted(bad, key=lambda record: -record.relative_error)[:_SHOWN]
    named = ", ".join(f"`{record.name}` {record.relative_error:.3f} at {record.bits} bits" for record in worst)
    return (
        f"warning: {len(bad)} weight(s) lose more than their bits explain (relative error {named}): their values are tiny, or a few "
        "are far larger than the rest; --layer 'NAME=bits:16' leaves one in float",
    )
