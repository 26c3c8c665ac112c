"""Sizes and times as people write them."""

from __future__ import annotations

import math
import re

from ovround.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)
_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(
    rf"(?=.)(?:{_NUMBER} ?h(?:ours?)?)? ?(?:{_NUMBER} ?m(?:in|inutes?)?)? ?(?:{_NUMBER} ?s(?:ec|econds?)?)?"
)
_LONGEST_S = 366 * 86_400.0
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


def parse_duration(name: str, text: str) -> float:
    """Seconds of a time such as `90s`, `10min` or `1h30m`; raises UsageError that names the option."""
    match = _TIME.fullmatch(text.strip().lower())
    seconds = (
        sum(float(number) * size for number, size in zip(match.groups(), (3600, 60, 1), strict=True) if number)
        if match
        else 0
    )
    if not 0 < seconds <= _LONGEST_S:
        raise UsageError(f"{name} is `{text}`, which is no time", hint=f"example: --{name} 10min (or 90s, 1h30m)")
    return seconds


def shown_duration(seconds: float) -> str:
    """A time as `parse_duration` reads it, in whole seconds: `90s`, `10min`, `4m30s`, `1h30m`."""
    whole = math.ceil(seconds)
    if whole < 120 and whole != 60:
        return f"{whole}s"
    if whole < 3600 and not whole % 60:
        return f"{whole // 60}min"
    parts = ((whole // 3600, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


def parse_milliseconds(text: str) -> float | None:
    """Milliseconds of a time such as `12ms`, `0.5 s` or `800us`; None for a text that is no time."""
    match = _DURATION.fullmatch(text.strip())
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]] if match else None
