"""`LayerRule`: an exception from the general bits and groups for some layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ovround.errors import UsageError
from ovround.options.option import one_of
from ovround.tensors.qtensor import BITS, GROUP_SIZES
from ovround.tensors.scheme import FLOAT_BITS


@dataclass(frozen=True, slots=True)
class LayerRule:
    """An exception for the modules whose name `pattern` is found in; a field that is None follows the general options."""

    pattern: str
    bits: int | None = None
    group_size: int | None = None
    sym: bool | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UsageError(f"layer rule: `{self.pattern}` is no regular expression: {error}") from error
        if self.bits is not None:
            one_of("bits", self.bits, (*BITS, FLOAT_BITS))
        if self.group_size is not None:
            one_of("group_size", self.group_size, GROUP_SIZES)

    @classmethod
    def parse(cls, text: str) -> LayerRule:
        """Read `REGEX=bits:8,group_size:32,sym:false`; raises UsageError that says which part is wrong."""
        pattern, separator, settings = text.rpartition("=")
        if not separator or not pattern or not settings:
            raise UsageError(
                f"layer rule `{text}` is not REGEX=key:value", hint="example: 'down_proj=bits:8,group_size:32'"
            )
        values: dict[str, Any] = {}
        for setting in settings.split(","):
            key, _, value = setting.partition(":")
            if key not in ("bits", "group_size", "sym"):
                raise UsageError(f"layer rule `{text}`: unknown key `{key}`", hint="keys: bits, group_size, sym")
            try:
                values[key] = {"true": True, "false": False}[value] if key == "sym" else int(value)
            except (ValueError, KeyError):
                raise UsageError(f"layer rule `{text}`: `{value}` is no value for {key}") from None
        return cls(pattern, **values)

    @property
    def spec(self) -> str:
        """As `parse` reads it."""
        values = {"bits": self.bits, "group_size": self.group_size, "sym": self.sym}
        settings = [f"{key}:{str(value).lower()}" for key, value in values.items() if value is not None]
        return f"{self.pattern}={','.join(settings)}"
