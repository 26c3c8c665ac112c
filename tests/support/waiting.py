"""How a test waits for something that another thread or process does.

A test waits long, since the machine may be busy with other work, and goes on at once when what it waits for has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 120.0


def wait_until(holds: Callable[[], bool], seconds: float = PATIENCE_S) -> float:
    """Wait until `holds()` is true; the seconds that it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started
