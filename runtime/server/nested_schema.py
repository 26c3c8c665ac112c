"""The schema of a tool's parameters inside a larger schema: its references point to its new place, its objects are closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose value has schemas by name, which may be any keyword's."""
_DATA = ("const", "enum", "default", "example", "examples")
_OPEN = ("additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "allOf", "$ref", "if")
"""An object schema with one of these says itself which other keys there may be, or is one part of that."""


def nested_schema(schema: Mapping[str, Any], at: str) -> dict[str, Any]:
    """`schema` for the place `at`, a JSON pointer such as `#/properties/arguments`.

    JSON Schema allows any further key where `additionalProperties` is not said, and a model that is held to the schema may then
    add keys until its limit of tokens. So an object with `properties` takes no others, unless the schema composes objects.
    """
    root = {name: value for name, value in schema.items() if name not in ("$id", "$schema")}
    moved: dict[str, Any] = _nested(root, at, close=not _composes(root))
    return moved


def _nested(schema: Any, at: str, *, close: bool) -> Any:
    if isinstance(schema, list):
        return [_nested(item, at, close=close) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _DATA:
            moved[name] = value
        elif name in _BY_NAME and isinstance(value, dict):
            moved[name] = {key: _nested(item, at, close=close) for key, item in value.items()}
        elif name == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            moved[name] = at + value[1:]
        else:
            moved[name] = _nested(value, at, close=close)
    if close and isinstance(schema.get("properties"), dict) and not any(name in schema for name in _OPEN):
        moved["additionalProperties"] = False
    return moved


def _composes(schema: Any) -> bool:
    """Whether several schemas must hold for one object: keys that one of them does not name may be another's."""
    if isinstance(schema, list):
        return any(map(_composes, schema))
    if not isinstance(schema, dict):
        return False
    beside = "properties" in schema and any(name in schema for name in ("anyOf", "oneOf", "$ref"))
    parts = schema.get("allOf")
    if beside or "if" in schema or "dependentSchemas" in schema or (isinstance(parts, list) and len(parts) > 1):
        return True
    return any(_composes(value) for name, value in schema.items() if name not in _DATA)
