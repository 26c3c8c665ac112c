"""Typed look-ups in an untrusted config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.errors import ArchitectureError

_LARGEST = 1e30  # of a number that means something here; Python's JSON also reads NaN, Infinity and endless integers


class ConfigReader:
    """Reads numbers by key; raises ArchitectureError naming the key and the value that is no such number."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def integer(self, key: str, default: int | None = None) -> int:
        """The value at `key`, or `default` where the key is absent or null."""
        value = self._config.get(key)
        if value is None:
            if default is None:
                raise ArchitectureError(f"config.json has no `{key}`")
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise ArchitectureError(f"config.json: `{key}` is {value!r:.40}; a whole number is needed")
        return value

    def number(self, key: str, default: float) -> float:
        """The value at `key`, or `default` where the key is absent or null."""
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= _LARGEST:
            raise ArchitectureError(f"config.json: `{key}` is {value!r:.40}; a number is needed")
        return float(value)
