"""Regular expressions of a checkpoint's configuration, with bounded time and size: nobody vouches for their author.

`(a|aa)+$` on a name of sixty letters keeps Python's own `re` busy for years. The `regex` library reads the same language and
takes a time limit.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

from ovround.errors import CheckpointError, MissingExtraError
from ovround.limits import LIMITS

_COUNTS = re.compile(r"\{(\d{0,9}),?(\d{0,9})\}")
_REPEATS = 10_000  # `regex` writes counted repetitions out: ((a{1000}){1000}){1000} is 10^9 of them


_PLAIN = re.compile(r"[\w.-]*")  # a layer's name, which Python's own library searches in linear time, ten times faster


class Pattern:
    """One expression; its methods raise CheckpointError when all its searches together take too long."""

    def __init__(self, source: str) -> None:
        """Raises CheckpointError for an invalid or too large expression, MissingExtraError without `regex`."""
        self._shown = f"`{source:.60}`"
        self._left_s = LIMITS.pattern_s
        if len(source) > LIMITS.pattern_characters or _repeats(source) > _REPEATS:
            raise CheckpointError(
                f"quantization_config: the regular expression {self._shown} is too large; {LIMITS.pattern_characters} "
                f"characters and {_REPEATS} counted repetitions are allowed"
            )
        self._plain = re.compile(source) if _PLAIN.fullmatch(source) else None
        self._bounded: Any = _compiled(source, self._shown) if self._plain is None else None

    def match(self, name: str) -> bool:
        """Whether it fits the beginning of `name`."""
        return self._plain.match(name) is not None if self._plain else self._within_time(self._bounded.match, name)

    def search(self, name: str) -> bool:
        """Whether it fits anywhere in `name`."""
        return self._plain.search(name) is not None if self._plain else self._within_time(self._bounded.search, name)

    def _within_time(self, find: Callable[..., object], name: str) -> bool:
        start = time.perf_counter()
        try:
            return find(name, timeout=max(self._left_s, 1e-3)) is not None
        except TimeoutError:
            raise CheckpointError(
                f"quantization_config: the regular expression {self._shown} takes more than {LIMITS.pattern_s:g} s "
                f"on names such as `{name:.100}`",
                hint="whoever made this checkpoint wrote it so: do not trust the folder",
            ) from None
        finally:
            self._left_s -= time.perf_counter() - start


def _compiled(source: str, shown: str) -> Any:
    try:
        import regex
    except ImportError as error:
        raise MissingExtraError("regex", "convert") from error
    try:
        return regex.compile(source)
    except (regex.error, RecursionError, OverflowError) as error:
        raise CheckpointError(f"quantization_config: {shown} is no regular expression: {error}") from error


def _repeats(source: str) -> int:
    """The counts of all repetitions multiplied, as if each stood in the next."""
    return math.prod(max(1, *(int(count or 0) for count in counts)) for counts in _COUNTS.findall(source))
