"""Typed look-ups in an untrusted config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.errors import ArchitectureError

_LARGEST = 1e30  # of a number that means something here; Python's JSON also reads NaN, Infinity and endless integers
_LARGEST_INTEGER = 1 << 53  # what a float can tell from its neighbours: sizes are multiplied with numbers


Names = Mapping[str, str | tuple[str, ...]]
"""A family's own name of a key, or several that are tried in order."""


class ConfigReader:
    """Reads values by key; raises ArchitectureError naming the key and the value that is not of its kind.

    `names` gives a family's own name of a key where it has one. Several are tried in order: where transformers has an
    `attribute_map`, its name for all families is assigned last and rules over the family's own.
    """

    def __init__(self, config: Mapping[str, Any], names: Names | None = None) -> None:
        self.config = config
        self._names = names or {}

    def value(self, key: str) -> tuple[str, Any]:
        """The key as it is spelled, and its value; where it is absent, the family's own name and None."""
        spellings = self._names.get(key, key)
        spellings = (spellings,) if isinstance(spellings, str) else spellings
        found = ((name, self.config[name]) for name in spellings if self.config.get(name) is not None)
        return next(found, (spellings[-1], None))

    def integer(self, key: str, default: int | None = None) -> int:
        """The value at `key`, or `default` where the key is absent or null."""
        name, value = self.value(key)
        if value is None:
            if default is None:
                raise ArchitectureError(f"config.json has no `{name}`")
            return default
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST_INTEGER:
            raise ArchitectureError(f"config.json: `{name}` is {value!r:.40}; a whole number is needed")
        return value

    def number(self, key: str, default: float) -> float:
        """The value at `key`, or `default` where the key is absent or null."""
        name, value = self.value(key)
        return default if value is None else _number(name, value)

    def positive(self, key: str, default: float) -> float:
        """As `number`, above 0."""
        number = self.number(key, default)
        if not number > 0:
            raise ArchitectureError(f"config.json: `{self.value(key)[0]}` is {number:g}; a number above 0 is needed")
        return number

    def numbers(self, key: str) -> tuple[float, ...]:
        """The list of numbers at `key`."""
        name, value = self.value(key)
        if not isinstance(value, list) or not value:
            raise ArchitectureError(f"config.json: `{name}` is {value!r:.40}; a list of numbers is needed")
        return tuple(_number(name, element) for element in value)

    def flag(self, key: str, *, default: bool) -> bool:
        """The value at `key`, or `default` where the key is absent or null."""
        name, value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ArchitectureError(f"config.json: `{name}` is {value!r:.40}; true or false is needed")
        return value

    def words(self, key: str, count: int, allowed: tuple[str, ...]) -> tuple[str, ...] | None:
        """The `count` words at `key`, each of them `allowed`; None where the key is absent or null."""
        name, value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or any(word not in allowed for word in value):
            raise ArchitectureError(
                f"config.json: `{name}` is {value!r:.60}; {count} of {', '.join(allowed)} are needed"
            )
        return tuple(value)

    def refuse(self, key: str, *allowed: Any) -> None:
        """Raise ArchitectureError where `key` is there with a value that is none of `allowed`: a variant that is not built."""
        name, value = self.value(key)
        if value is not None and value not in allowed:
            raise ArchitectureError(
                f"config.json: `{name}` is {value!r:.40}, a variant that is not supported",
                hint=f"supported: {' or '.join(str(choice) for choice in allowed)}",
            )


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= _LARGEST:
        raise ArchitectureError(f"config.json: `{name}` is {value!r:.40}; a number is needed")
    return float(value)
