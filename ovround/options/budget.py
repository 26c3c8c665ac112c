"""`Budget`: one number that the bits of all layers together must keep."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovround.errors import UsageError
from ovround.options.units import parse_milliseconds, parse_size

Unit = Literal["bits", "bytes", "ms"]
_BITS = re.compile(r"(\d+(?:\.\d+)?) ?bits?", re.IGNORECASE)
_EXAMPLES = "--budget 4.2bits (average of a weight), 900MB (weights file) or 12ms:table.json (time a token)"
_MEASURE = "`ovround profile MODEL table.json` measures a table, for --budget 12ms:table.json"


@dataclass(frozen=True, slots=True)
class Budget:
    """Average bits a weight, bytes of the weights file, or milliseconds of a token, by `unit`.

    `profile` is the latency table of `ovround profile` that milliseconds are counted by.
    """

    value: float
    unit: Unit
    profile: Path | None = None

    def __post_init__(self) -> None:
        if self.unit not in ("bits", "bytes", "ms"):
            raise UsageError(f"budget: unit is `{self.unit}`; allowed: bits, bytes, ms")
        if not 0 < self.value < math.inf:
            raise UsageError(f"budget is {self.value} {self.unit}; a number above 0 is needed")
        if self.unit == "ms" and self.profile is None:
            raise UsageError(f"budget is {self.value:g} ms without a latency table", hint=_MEASURE)
        if self.unit != "ms" and self.profile is not None:
            raise UsageError(f"budget in {self.unit} has a latency table, `{self.profile}`; only one in ms reads it")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `4.2bits`, `900MB` or `12ms:table.json`; raises UsageError with an example of each."""
        text, _, table = text.partition(":")
        profile = Path(table) if table else None
        if match := _BITS.fullmatch(text.strip()):
            return cls(float(match[1]), "bits", profile)
        milliseconds = parse_milliseconds(text)
        if milliseconds is not None:
            return cls(milliseconds, "ms", profile)
        if not text.strip().lower().endswith("b"):  # a bare number has no unit, and 12m may mean either
            raise UsageError(f"budget is `{text}`; bits, a size or a time is needed", hint=f"examples: {_EXAMPLES}")
        try:
            size = parse_size("budget", text)
        except UsageError:
            raise UsageError(
                f"budget is `{text}`; bits, a size or a time is needed", hint=f"examples: {_EXAMPLES}"
            ) from None
        return cls(size, "bytes", profile)

    @property
    def spec(self) -> str:
        """As `parse` reads it."""
        table = f":{self.profile}" if self.profile else ""
        return f"{self.value:.0f}B" if self.unit == "bytes" else f"{self.value!r}{self.unit}{table}"

    def shown(self, value: float, rounding: Callable[[float], int] = round) -> str:
        """`value` in the budget's unit, for messages."""
        number = f"{value:.0f}" if self.unit == "bytes" else f"{rounding(value * 1000) / 1000:g}"
        return f"{number} {self.unit}"
