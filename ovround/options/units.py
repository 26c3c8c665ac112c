"""Sizes and times as people write them."""

from __future__ import annotations

import re

from ovround.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(us|ms|s)")


def parse_size(name: str, text: str) -> int:
    """Bytes of a size such as `4GB`, `512 MiB` or `1000000`; raises UsageError that names the option."""
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ") if match else 0.0
    if not 1 <= size < 2**63:
        raise UsageError(
            f"{name} is `{text}`, which is no size", hint=f"example: --{name} 4GB (or MB, GiB, MiB, bytes)"
        )
    return int(size)


def parse_milliseconds(text: str) -> float | None:
    """Milliseconds of a time such as `12ms`, `0.5 s` or `800us`; None for a text that is no time."""
    match = _DURATION.fullmatch(text.strip())
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]] if match else None
