"""`Budget`: one number that the bits of all layers together must keep."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ovround.errors import UsageError
from ovround.options.units import parse_milliseconds, parse_size

Unit = Literal["bits", "bytes", "ms"]
_BITS = re.compile(r"(\d+(?:\.\d+)?) ?bits?", re.IGNORECASE)
_EXAMPLES = "--budget 4.2bits (average of a weight), 900MB (weights file) or 12ms (time a token)"


@dataclass(frozen=True, slots=True)
class Budget:
    """Average bits a weight, bytes of the weights file, or milliseconds of a token, by `unit`."""

    value: float
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in ("bits", "bytes", "ms"):
            raise UsageError(f"budget: unit is `{self.unit}`; allowed: bits, bytes, ms")
        if not 0 < self.value < math.inf:
            raise UsageError(f"budget is {self.value} {self.unit}; a number above 0 is needed")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `4.2bits`, `900MB` or `12ms`; raises UsageError with an example of each."""
        if match := _BITS.fullmatch(text.strip()):
            return cls(float(match[1]), "bits")
        milliseconds = parse_milliseconds(text)
        if milliseconds is not None:
            return cls(milliseconds, "ms")
        if not text.strip().lower().endswith("b"):  # a bare number has no unit, and 12m may mean either
            raise UsageError(f"budget is `{text}`; bits, a size or a time is needed", hint=f"examples: {_EXAMPLES}")
        try:
            return cls(parse_size("budget", text), "bytes")
        except UsageError:
            raise UsageError(
                f"budget is `{text}`; bits, a size or a time is needed", hint=f"examples: {_EXAMPLES}"
            ) from None

    @property
    def spec(self) -> str:
        """As `parse` reads it."""
        return f"{self.value:.0f}B" if self.unit == "bytes" else f"{self.value!r}{self.unit}"

    def shown(self, value: float, rounding: Callable[[float], int] = round) -> str:
        """`value` in the budget's unit, for messages."""
        number = f"{value:.0f}" if self.unit == "bytes" else f"{rounding(value * 1000) / 1000:g}"
        return f"{number} {self.unit}"
