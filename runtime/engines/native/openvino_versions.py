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


def show_symbols() -> None:
    """Make the symbols of the OpenVINO that this process has loaded visible to the operator's library (Linux).

    Python's extension modules load their libraries for themselves alone. Raises OSError if OpenVINO's library is not found.
    """
    if sys.platform != "linux":
        return  # there the operator is linked to OpenVINO
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        paths = (line.rstrip("\n").split(maxsplit=5)[-1] for line in maps if "/libopenvino.so" in line)
        library = next(paths, None)
    if library is None:
        raise OSError("OpenVINO's library, libopenvino.so, is not in this process")
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
