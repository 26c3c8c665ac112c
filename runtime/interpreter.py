"""The Python interpreter for ovround's own processes."""

from __future__ import annotations

import os
from multiprocessing import spawn


def interpreter() -> str:
    """The interpreter; an application that embeds Python names it by `multiprocessing.set_executable`."""
    return os.fsdecode(spawn.get_executable())
