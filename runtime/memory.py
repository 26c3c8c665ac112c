"""Is there memory for a batch, before it is asked for? Linux grants what it does not have, and ends the process that uses it."""

from __future__ import annotations

from pathlib import Path

from ovround.errors import GenerationError

_MEMORY = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """What the system could give out without swapping, as Linux estimates it (MemAvailable); None where it does not tell."""
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return None


def check_memory(rows: int, tokens: int, bytes_per_token: int) -> None:
    """Raise GenerationError when the cache of `rows` rows of `tokens` tokens would not fit what is available."""
    needed, available = rows * tokens * bytes_per_token, available_bytes()
    if available is not None and needed > available:
        raise GenerationError(
            f"{rows} rows of {tokens} tokens need {needed / 1e9:.1f} GB of cache; {available / 1e9:.1f} GB are free",
            hint="fewer prompts at once, or shorter ones",
        )
