"""The memory that may be used is the least of the machine's and of the limits of all control groups above the process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ovround.runtime import memory

MIB = 1 << 20
CASES: dict[str, tuple[str, Mapping[str, str], int | None, int | None]] = {
    "version 2, limit of a parent": (
        "0::/user/job\n",
        {"user/memory.max": f"{300 * MIB}", "user/memory.current": f"{100 * MIB}", "user/job/memory.max": "max",
         "user/memory.stat": f"anon 5\ninactive_file {40 * MIB}\n"},
        300 * MIB, 240 * MIB,
    ),
    "version 2, the softer limit": ("0::/\n", {"memory.max": f"{9 * MIB}", "memory.high": f"{7 * MIB}"}, 7 * MIB, 7 * MIB),
    "version 2 in a container that sees the host's path": (
        "0::/docker/0123\n", {"memory.max": f"{50 * MIB}", "memory.current": f"{60 * MIB}"}, 50 * MIB, 0
    ),
    "version 1": (
        "7:cpu,cpuacct:/a\n4:memory:/a\n0::/\n",
        {"memory/a/memory.limit_in_bytes": f"{80 * MIB}", "memory/a/memory.usage_in_bytes": f"{30 * MIB}",
         "memory/memory.limit_in_bytes": "9223372036854771712"},
        80 * MIB, 50 * MIB,
    ),
    "no limit": ("0::/a\n", {"a/memory.max": "max"}, None, None),
    "not what it should be": ("0::/a\nnonsense\n", {"a/memory.max": "much"}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_limits_of_control_groups(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, files, total, available = CASES[case]
    machine = memory.total_bytes(), memory.available_bytes()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "groups").write_text(groups)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_MOUNT", tmp_path)
    if total is None:
        assert memory.total_bytes() >= (machine[0] or 0) > 0
        assert (memory.available_bytes() or 0) > 100 * MIB > 0
    else:
        assert (memory.total_bytes(), memory.available_bytes()) == (total, available)
