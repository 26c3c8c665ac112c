"""Which program runs Python, for processes of our own."""

from __future__ import annotations

import os
from multiprocessing import spawn


def interpreter() -> str:
    """The interpreter: of an application that is none itself, the one that it named for `multiprocessing`."""
    return os.fsdecode(spawn.get_executable())
