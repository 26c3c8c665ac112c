"""The versions of OpenVINO that the native operator works with, and its access to the one in use.

What the operator uses of OpenVINO's C++ interface is the same in these versions, and its library is linked to none of them
(`runtime/native/openvino_versions.hpp` states the same versions). Its symbols are those of the process.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

OLDEST, NEWEST = (2026, 1), (2026, 4)


def supported_range() -> str:
    """The versions in words."""
    return f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"


def is_supported(version: str) -> bool:
    """Whether the operator works with OpenVINO of this version, such as `2026.4.1-22982-...`."""
    numbers = version.split(".")[:2]
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        return False
    return OLDEST <= (int(numbers[0]), int(numbers[1])) <= NEWEST


def open_operator(library: Path) -> None:
    """Load the operator's `library` for as long as the process lives, since the nodes of models do not keep it loaded.

    On Linux the symbols of the process's OpenVINO become visible to it before: Python's extension modules load their libraries for
    themselves alone. Raises OSError if that cannot be done.
    """
    if sys.platform == "linux":  # elsewhere the operator is linked to OpenVINO
        _show_symbols()
    ctypes.CDLL(str(library))


def _show_symbols() -> None:
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        paths = (line.rstrip("\n").split(maxsplit=5)[-1] for line in maps if "/libopenvino.so" in line)
        library = next(paths, None)
    if library is None:
        raise OSError("OpenVINO's library, libopenvino.so, is not in this process")
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
