"""Reads our own JSON files into dataclasses and checks the type of every value, because somebody may have changed them."""

from __future__ import annotations

import dataclasses
import json
import stat
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_LARGEST = 2**63  # no size, shape or count is larger, and a huge integer cannot become a float


def load_json(path: Path, most_bytes: int) -> Any:
    """The JSON document in `path`; raises OSError, or ValueError for a file that is too large, not regular, or not JSON."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > most_bytes:
        raise ValueError(f"it has {status.st_size} bytes; at most {most_bytes} are allowed")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors write a byte order mark
    except RecursionError as error:
        raise ValueError(f"{error}") from error


def read_record(kind: type[T], raw: object, path: str = "") -> T:
    """`raw` as an instance of the dataclass `kind`, whose fields may be dataclasses; `path` is where `raw` is in the document.

    Raises TypeError that names the path and the value that does not fit.
    """
    if not isinstance(raw, dict):
        raise TypeError(f"{path or 'the document'} is {raw!r:.40}; an object is needed")
    hints = typing.get_type_hints(kind)
    known = dataclasses.fields(kind)  # type: ignore[arg-type]  # mypy knows no type of dataclasses
    unknown = sorted(raw.keys() - {field.name for field in known})
    if unknown:
        raise TypeError(f"{path}{'.' if path else ''}{unknown[0]:.40} is not known")
    values: dict[str, Any] = {}
    for field in known:
        field_path = f"{path}.{field.name}" if path else field.name
        if field.name in raw:
            values[field.name] = _value(hints[field.name], raw[field.name], field_path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise TypeError(f"{field_path} is missing")
    return kind(**values)


def _value(hint: Any, raw: object, path: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return raw
    if origin in (typing.Union, types.UnionType):
        return None if raw is None else _value(inner[0], raw, path)
    if origin is tuple and isinstance(raw, list):
        return tuple(_value(inner[0], item, f"{path}[{index}]") for index, item in enumerate(raw))
    if origin is dict and isinstance(raw, dict):
        return {name: _value(inner[1], item, f"{path}.{name:.60}") for name, item in raw.items()}
    if dataclasses.is_dataclass(hint):
        return read_record(typing.cast("type[Any]", hint), raw, path)
    wanted = (int, float) if hint is float else hint
    plain = isinstance(wanted, (type, tuple)) and origin is None
    number = isinstance(raw, int) and not isinstance(raw, bool)
    if not plain or not isinstance(raw, wanted) or (isinstance(raw, bool) and hint is not bool):
        raise TypeError(f"{path} is {raw!r:.40}; {_words(hint)} is needed")
    if number and not abs(typing.cast("int", raw)) < _LARGEST:
        raise TypeError(f"{path} is {raw!r:.40}; a number below 2^63 is needed")
    return raw


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, "a list" if typing.get_origin(hint) is tuple else "an object")
