"""Bits of a weight as people write them."""

from __future__ import annotations

import re

from ovround.errors import UsageError
from ovround.tensors.qtensor import BITS
from ovround.tensors.scheme import FLOAT_BITS

WIDTHS = (*BITS, FLOAT_BITS)
_WIDTH = re.compile(r"(?:u?int|w|q)?(\d+)(?:[ -]?bits?)?", re.IGNORECASE)
_GGUF_TYPE = re.compile(r"I?Q(\d)_\w+|B?F(16)", re.IGNORECASE)


def parse_bits(text: str | int) -> int:
    """The width of `4`, `int4`, `4bit` or `q4`; raises UsageError for one that there is not, and for a type of GGUF files."""
    text = str(text).strip()  # Typer hands a default over as it is
    match = _WIDTH.fullmatch(text)
    if match is not None and int(match[1]) in WIDTHS:
        return int(match[1])
    allowed, gguf = ", ".join(map(str, WIDTHS)), _GGUF_TYPE.fullmatch(text)
    if gguf is not None:
        bits = nearest(int(gguf[1] or gguf[2]))
        raise UsageError(
            f"bits is `{text}`, a type of GGUF files; allowed: {allowed}",
            hint=f"--bits {bits}; a GGUF file of a hub repository is named MODEL:{text}",
        )
    hint = f"--bits {nearest(int(match[1]))}" if match is not None else None
    raise UsageError(f"bits is `{text}`; allowed: {allowed}", hint=hint)


def nearest(bits: int) -> int:
    """The widest allowed width of at most so many bits, or the narrowest."""
    return max((width for width in WIDTHS if width <= bits), default=WIDTHS[0])
