"""What is declared about an option, and the check of its values: once, where the field of the record is declared."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ovround.errors import UsageError

Panel = Literal["Grid", "Tuning", "Budget", "Output"]
Source = Literal["unquantised", "quantised", "ir"]
"""What a conversion starts from: a checkpoint in float, one with integers, or an OpenVINO IR folder that NNCF compresses."""
Subject = Literal["integers", "codebooks", "pv"]
"""What an option is about, where it is not about every conversion."""
SOURCES: tuple[Source, ...] = ("unquantised", "quantised", "ir")


@dataclass(frozen=True, slots=True)
class Option:
    """The declaration of an option beside its name, type and default, which are those of the field.

    `panel` None: the option has no flag and stands in a tuning file. `flag`: the flag where it is not the field's name.
    `parse` reads a flag's text where the field holds a type of ours. `fingerprint`: whether finished blocks of an interrupted
    conversion depend on it: by its value, by the content of the files that it names, or not at all.
    """

    help: str
    panel: Panel | None
    flag: str = ""
    allowed: tuple[object, ...] = ()
    range: tuple[float, float] | None = None
    above_low: bool = False
    parse: Callable[[str], Any] | None = None
    sources: tuple[Source, ...] = ("unquantised",)
    fingerprint: Literal["value", "content", "none"] = "value"
    about: Subject | None = None


def option(
    default: Any,
    help: str,  # noqa: A002  the word of Typer
    panel: Panel | None = None,
    **more: Any,
) -> Any:
    """A dataclass field with a declaration; `more` are the fields of `Option`."""
    return field(default=default, metadata={"option": Option(help, panel, **more)})


@dataclass(frozen=True, slots=True)
class DeclaredOption:
    """An option with the name, type and default of its field."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """As it is typed: `--group-size`, or `--sym/--asym`."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def label(self) -> str:
        """How messages call it: the flag without its dashes, or the key of a tuning file."""
        return self.name if self.option.panel is None else self.flag.partition("/")[0].removeprefix("--")

    @property
    def inner(self) -> Any:
        """The type of one value: without None, and of a tuple's entries."""
        kinds = [kind for kind in get_args(self.type) if kind is not type(None)]
        kind = kinds[0] if get_origin(self.type) in (Union, UnionType) else self.type
        if get_origin(kind) is Literal:
            return type(get_args(kind)[0])
        return get_args(kind)[0] if get_origin(kind) is tuple else kind

    @property
    def choices(self) -> tuple[object, ...]:
        """The values that are allowed, where they can be listed: those of a Literal, or those that are declared."""
        literals = [kind for kind in (self.type, *get_args(self.type)) if get_origin(kind) is Literal]
        return get_args(literals[0]) if literals else self.option.allowed

    @property
    def repeatable(self) -> bool:
        """Whether it holds several values."""
        return get_origin(self.type) is tuple

    @property
    def switch(self) -> bool:
        """Whether its flag takes no value."""
        return self.inner is bool

    def check(self, value: Any) -> None:
        """Raise UsageError for a value that is not allowed, naming what is."""
        values = value if self.repeatable else () if value is None else (value,)
        for item in values:
            if self.choices:
                one_of(self.label, item, self.choices)
            if self.option.range is not None:
                self._check_range(item, *self.option.range)

    def _check_range(self, value: Any, low: float, high: float) -> None:
        if low <= value <= high and not (self.option.above_low and value == low):
            return
        span = f"above {low:g}, at most {high:g}," if self.option.above_low else f"{low} to {high}"
        raise UsageError(f"{self.label} is {value}; {span} is allowed")


_DECLARED: dict[type, tuple[DeclaredOption, ...]] = {}  # reading annotations takes longer than all checks together


def declared(record: type) -> tuple[DeclaredOption, ...]:
    """The options of a dataclass in the order of their fields."""
    if record not in _DECLARED:
        hints = get_type_hints(record)
        _DECLARED[record] = tuple(
            DeclaredOption(entry.name, hints[entry.name], entry.default, entry.metadata["option"])
            for entry in dataclasses.fields(record)
        )
    return _DECLARED[record]


def check_values(record: Any) -> None:
    """Raise UsageError for the first value of the record that its declaration does not allow."""
    for entry in declared(type(record)):
        entry.check(getattr(record, entry.name))


def changed(record: Any) -> list[DeclaredOption]:
    """The options of the record that are not at their defaults."""
    return [entry for entry in declared(type(record)) if getattr(record, entry.name) != entry.default]


def plain(record: Any) -> dict[str, Any]:
    """Values for JSON: those of our own types as they are typed, paths by their last part, so that places change no bytes."""
    return {entry.name: _plain(getattr(record, entry.name)) for entry in declared(type(record))}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.name
    if dataclasses.is_dataclass(value):
        spec = getattr(value, "spec", None)
        return plain(value) if spec is None else spec
    return value


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise UsageError for a value that is none of the allowed, with the closest of them as the hint."""
    if value in allowed:
        return
    hint = did_you_mean(value, allowed) if isinstance(value, str) else None
    raise UsageError(f"{name} is `{value}`; allowed: {', '.join(str(choice) for choice in allowed)}", hint=hint)


def did_you_mean(value: object, allowed: tuple[object, ...]) -> str | None:
    """A hint with the closest of the allowed values, where one is close."""
    close = difflib.get_close_matches(str(value), [str(choice) for choice in allowed], 1)
    return f"did you mean `{close[0]}`?" if close else None
