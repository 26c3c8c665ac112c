"""A check that memory suffices for a batch. Linux grants more memory than it has, and kills the process that uses it."""

from __future__ import annotations

from pathlib import Path

from ovround.errors import GenerationError

_MEMORY = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Memory available without swapping, from Linux's estimate MemAvailable; None on other systems."""
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        entry = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(entry.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return None


def check_memory(rows: int, tokens: int, bytes_per_token: int) -> None:
    """Raise GenerationError if a cache of `rows` rows with `tokens` tokens exceeds the available memory."""
    needed, available = rows * tokens * bytes_per_token, available_bytes()
    if available is not None and needed > available:
        raise GenerationError(
            f"{rows} rows of {tokens} tokens need {needed / 1e9:.1f} GB of cache; {available / 1e9:.1f} GB are free",
            hint="fewer prompts at once, or shorter ones",
        )
