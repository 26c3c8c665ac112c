"""The memory that this process may use: that of the machine, or less where a container or a service limits it.

Linux grants more memory than there is, and kills the process that uses it. So a need is compared with what there is first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ovround.errors import GenerationError

_MEMORY = Path("/proc/meminfo")
_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # version 1 states no limit as a number near 2^63
# files of a control group: its limits, what it uses, and the line of memory.stat with caches of files that can be dropped
_VERSION_2 = (("memory.max", "memory.high"), "memory.current", "inactive_file")
_VERSION_1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def total_bytes() -> int | None:
    """The most memory that this process may use: the machine's, or the lowest limit of its control groups; None if unknown."""
    limits = [limit for limit, _ in _group_limits()]
    names: dict[str, int] = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((limit for limit in limits if limit > 0), default=None)


def available_bytes() -> int | None:
    """Memory available now without swapping: Linux's estimate, or what the control groups leave; None on other systems."""
    found = [max(limit - used, 0) for limit, used in _group_limits()]
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        entry = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(entry.split()[1]) * 1024)
    except (OSError, StopIteration, ValueError):
        pass
    return min(found, default=None)


def check_memory(rows: int, tokens: int, bytes_per_token: int) -> None:
    """Raise GenerationError if a cache of `rows` rows with `tokens` tokens exceeds the available memory."""
    needed, available = rows * tokens * bytes_per_token, available_bytes()
    if available is not None and needed > available:
        raise GenerationError(
            f"{rows} rows of {tokens} tokens need {needed / 1e9:.1f} GB of cache; {available / 1e9:.1f} GB are free",
            hint="fewer prompts at once, or shorter ones",
        )


def _group_limits() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each control group of this process that has a limit."""
    try:
        entries = [line.split(":", 2) for line in _GROUPS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers == "":
            for mount in (_MOUNT, _MOUNT / "unified"):
                yield from _limits_above(mount, path, *_VERSION_2)
        elif "memory" in controllers.split(","):
            yield from _limits_above(_MOUNT / "memory", path, *_VERSION_1)


def _limits_above(
    mount: Path, path: str, limit_files: tuple[str, ...], usage_file: str, cache_line: str
) -> Iterator[tuple[int, int]]:
    """Those of the group at `path` and of its parents. In a container the path may be the host's: then the mount is its group."""
    group = mount / path.strip("/")
    if not group.is_dir() or ".." in path.split("/"):
        group = mount
    for folder in (group, *group.parents):
        limits = [limit for name in limit_files if (limit := _number(folder / name)) is not None and limit < _UNLIMITED]
        if limits:
            yield (
                min(limits),
                max((_number(folder / usage_file) or 0) - _dropped(folder / "memory.stat", cache_line), 0),
            )
        if folder == mount:
            return


def _number(path: Path) -> int | None:
    """The number in a file; None for a file that is not there, and for `max`."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _dropped(path: Path, line: str) -> int:
    try:
        words = [entry.split() for entry in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return 0
    return next((int(entry[1]) for entry in words if entry[:1] == [line]), 0)
